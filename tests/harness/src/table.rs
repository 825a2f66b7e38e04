//! Reads tables that `flowmeter` wrote, CSV and Parquet, into one form that tests compare.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType, TimestampNanosecondType};
use arrow_array::{Array as _, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A table's rows by column name, as text; numbers as they are written shortest.
pub type Table = Vec<BTreeMap<String, String>>;

/// Reads a CSV file that `flowmeter` wrote.
///
/// # Errors
/// The file cannot be read, or is no CSV.
pub fn read_csv(path: &Path) -> Result<Table> {
    let mut reader = csv::Reader::from_path(path)?;
    Ok(reader.deserialize().collect::<Result<_, _>>()?)
}

/// Reads a Parquet file that `flowmeter` wrote: columns with their types, and the rows.
///
/// # Errors
/// The file cannot be read, or has a column of a type that FlowMeter does not write.
pub fn read_parquet(path: &Path) -> Result<(Vec<(String, DataType)>, Table)> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let columns: Vec<(String, DataType)> =
        builder.schema().fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect();
    let mut table = Table::new();
    for batch in builder.build()? {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            table.push(
                columns
                    .iter()
                    .map(|(name, _)| Ok((name.clone(), cell(&batch, name, row)?)))
                    .collect::<Result<_>>()?,
            );
        }
    }
    Ok((columns, table))
}

/// A cell as the CSV has it.
fn cell(batch: &RecordBatch, name: &str, row: usize) -> Result<String> {
    let column = batch.column_by_name(name).context("a column of the schema")?;
    if column.is_null(row) {
        return Ok(String::new());
    }
    Ok(match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        // The CSV writes the shortest text that reads back as the same number, and so does this.
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            let value = column.as_primitive::<TimestampMicrosecondType>().value(row);
            format!("{}.{:06}", value / 1_000_000, value % 1_000_000)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, Some(_)) => {
            let value = column.as_primitive::<TimestampNanosecondType>().value(row);
            format!("{}.{:09}", value / 1_000_000_000, value % 1_000_000_000)
        }
        other => bail!("column {name} is {other}"),
    })
}
