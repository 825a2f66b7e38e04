//! Apache Parquet: typed columns, compressed, with the feature set's id in the file's metadata. Statistics have no place
//! in it. A file is complete, and can be read, once it has been finished.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use arrow_array::builder::{
    Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder, TimestampNanosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::table::{Column, Extent, columns};
use super::{Labels, Sink};
use crate::config::TimestampUnit;
use crate::features::{Cell, FeatureSet, identity::CellKind};
use crate::record::Stage;
use crate::scoring::Scored;
use crate::stats::Stats;

/// Flows handed to the writer together.
const BATCH: usize = 1024;
/// Flows of a row group, which the writer keeps in memory until it is full: about 1 KiB each.
const ROW_GROUP: usize = 32_768;

/// Writes a Parquet file.
pub struct Parquet {
    /// None once finished.
    writer: Option<ArrowWriter<Box<dyn Write + Send>>>,
    schema: Arc<Schema>,
    columns: Vec<(Column, Builder)>,
    labels: Labels,
    rows: usize,
}

/// The cells of a column that have not been handed over.
enum Builder {
    Integer(Int64Builder),
    Real(Float64Builder),
    Text(StringBuilder),
    Microseconds(TimestampMicrosecondBuilder),
    Nanoseconds(TimestampNanosecondBuilder),
}

impl Builder {
    fn new(kind: CellKind, unit: TimestampUnit) -> Self {
        match kind {
            CellKind::Integer => Self::Integer(Int64Builder::new()),
            CellKind::Real => Self::Real(Float64Builder::new()),
            CellKind::Text => Self::Text(StringBuilder::new()),
            CellKind::Time if unit == TimestampUnit::Nanoseconds => {
                Self::Nanoseconds(TimestampNanosecondBuilder::new().with_timezone("UTC"))
            }
            CellKind::Time => Self::Microseconds(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Integer(_) => DataType::Int64,
            Self::Real(_) => DataType::Float64,
            Self::Text(_) => DataType::Utf8,
            Self::Microseconds(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Nanoseconds(_) => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        }
    }

    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Self::Integer(cells), Cell::Integer(number)) => cells.append_value(number),
            (Self::Real(cells), Cell::Real(number)) => cells.append_value(number),
            (Self::Text(cells), Cell::Text(words)) => cells.append_value(words),
            (Self::Text(cells), Cell::Owned(words)) => cells.append_value(words),
            (Self::Text(cells), Cell::Address(address)) => cells.append_value(address.to_string()),
            // The type's range ends in the year 2262; what is stamped later than that has no time.
            (Self::Nanoseconds(cells), Cell::Time(time)) => cells.append_option(i64::try_from(time).ok()),
            (Self::Microseconds(cells), Cell::Time(time)) => {
                cells.append_option(i64::try_from(time).ok().map(|time| time / 1_000));
            }
            (Self::Integer(cells), _) => cells.append_null(),
            (Self::Real(cells), _) => cells.append_null(),
            (Self::Text(cells), _) => cells.append_null(),
            (Self::Microseconds(cells), _) => cells.append_null(),
            (Self::Nanoseconds(cells), _) => cells.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Integer(cells) => Arc::new(cells.finish()),
            Self::Real(cells) => Arc::new(cells.finish()),
            Self::Text(cells) => Arc::new(cells.finish()),
            Self::Microseconds(cells) => Arc::new(cells.finish()),
            Self::Nanoseconds(cells) => Arc::new(cells.finish()),
        }
    }
}

impl Parquet {
    /// A file on `out` with the features of `set`.
    ///
    /// # Errors
    /// The beginning cannot be written.
    pub fn new(
        out: Box<dyn Write + Send>,
        set: &'static FeatureSet,
        extent: Extent,
        labels: Labels,
        unit: TimestampUnit,
    ) -> Result<Self> {
        let extent = Extent { labelled: labels.is_some(), ..extent };
        let columns: Vec<_> =
            columns(set, extent).into_iter().map(|c| (c, Builder::new(c.kind(), unit))).collect();
        let fields: Vec<Field> = columns
            .iter()
            .map(|(column, builder)| Field::new(column.name(), builder.data_type(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let about = |key: &str, value: &str| KeyValue::new(format!("flowmeter.{key}"), value.to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .set_created_by(concat!("flowmeter ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![about("feature_set", set.id)]))
            .build();
        let writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))
            .context("cannot begin the Parquet file")?;
        Ok(Self { writer: Some(writer), schema, columns, labels, rows: 0 })
    }

    fn hand_over(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        let arrays = self.columns.iter_mut().map(|(_, builder)| builder.finish()).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).context("columns do not agree")?;
        let writer = self.writer.as_mut().ok_or_else(|| anyhow!("the Parquet file has been finished"))?;
        writer.write(&batch).context("cannot write the Parquet file")
    }
}

impl Sink for Parquet {
    fn flow(&mut self, scored: &Scored<'_>) -> Result<()> {
        if let Stage::Checkpoint { .. } = scored.record.stage {
            return Ok(());
        }
        let known = self.labels.of(scored);
        for (column, builder) in &mut self.columns {
            builder.push(column.cell(scored, known));
        }
        self.rows += 1;
        if self.rows == BATCH { self.hand_over() } else { Ok(()) }
    }

    fn stats(&mut self, stats: &Stats) -> Result<()> {
        stats.log();
        Ok(())
    }

    /// Does nothing: row groups are written when they are full, and what is written cannot be read before the end.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.hand_over()?;
        if let Some(mut writer) = self.writer.take() {
            writer.finish().context("cannot finish the Parquet file")?;
            writer.inner_mut().flush().context("cannot write the Parquet file")?;
        }
        Ok(())
    }
}
