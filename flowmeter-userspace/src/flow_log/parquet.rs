//! Parquet tables, read back: those that FlowMeter wrote, also with columns that pandas has added.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Reading, Row};
use crate::timestamp::timestamp;

/// A row of a batch.
struct ParquetRow<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl ParquetRow<'_> {
    fn column(&self, name: &str) -> Option<&dyn Array> {
        let column = self.batch.column_by_name(name)?.as_ref();
        (!column.is_null(self.row)).then_some(column)
    }
}

impl Row for ParquetRow<'_> {
    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let (column, row) = (self.column(name)?, self.row);
        let text = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row),
            DataType::LargeUtf8 => column.as_string::<i64>().value(row),
            DataType::Utf8View => column.as_string_view().value(row),
            DataType::Timestamp(unit, _) => {
                let (time, nanoseconds) = match unit {
                    TimeUnit::Second => {
                        (column.as_primitive::<TimestampSecondType>().value(row), 1_000_000_000)
                    }
                    TimeUnit::Millisecond => {
                        (column.as_primitive::<TimestampMillisecondType>().value(row), 1_000_000)
                    }
                    TimeUnit::Microsecond => {
                        (column.as_primitive::<TimestampMicrosecondType>().value(row), 1_000)
                    }
                    TimeUnit::Nanosecond => (column.as_primitive::<TimestampNanosecondType>().value(row), 1),
                };
                return Some(Cow::Owned(timestamp(u64::try_from(time).ok()?.checked_mul(nanoseconds)?)));
            }
            _ => return Some(Cow::Owned(self.number(name)?.to_string())),
        };
        (!text.is_empty()).then_some(Cow::Borrowed(text))
    }

    fn number(&self, name: &str) -> Option<f64> {
        let (column, row) = (self.column(name)?, self.row);
        Some(match column.data_type() {
            DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
            DataType::Float32 => column.as_primitive::<Float32Type>().value(row).into(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row) as f64,
            DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
            DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
            DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row) as f64,
            DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
            DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
            DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
            DataType::Boolean => f64::from(u8::from(column.as_boolean().value(row))),
            _ => return None,
        })
    }
}

/// Reads all rows.
pub fn read(path: &Path, reading: &mut Reading, take: &mut dyn FnMut(&dyn Row) -> Result<()>) -> Result<()> {
    let whole =
        || format!("cannot read {}: a Parquet file is readable once it has been finished", path.display());
    let file = File::open(path).with_context(whole)?;
    let batches =
        ParquetRecordBatchReaderBuilder::try_new(file).with_context(whole)?.build().with_context(whole)?;
    for batch in batches {
        let batch = batch.with_context(|| format!("cannot read {}", path.display()))?;
        for row in 0..batch.num_rows() {
            reading.rows += 1;
            take(&ParquetRow { batch: &batch, row })?;
        }
    }
    Ok(())
}
