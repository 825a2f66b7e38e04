//! Apache Parquet: typed columns, compressed, with the feature set's id in the file's metadata. Statistics have no place
//! in it. A file is complete, and can be read, once it has been finished.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use arrow_array::builder::{Float64Builder, Int64Builder, StringBuilder, TimestampNanosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::Sink;
use super::table::{Column, Extent, columns};
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
    rows: usize,
}

/// The cells of a column that have not been handed over.
enum Builder {
    Integer(Int64Builder),
    Real(Float64Builder),
    Text(StringBuilder),
    Time(TimestampNanosecondBuilder),
}

impl Builder {
    fn new(kind: CellKind) -> Self {
        match kind {
            CellKind::Integer => Self::Integer(Int64Builder::new()),
            CellKind::Real => Self::Real(Float64Builder::new()),
            CellKind::Text => Self::Text(StringBuilder::new()),
            CellKind::Time => Self::Time(TimestampNanosecondBuilder::new().with_timezone("UTC")),
        }
    }

    fn data_type(kind: CellKind) -> DataType {
        match kind {
            CellKind::Integer => DataType::Int64,
            CellKind::Real => DataType::Float64,
            CellKind::Text => DataType::Utf8,
            CellKind::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
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
            (Self::Time(cells), Cell::Time(time)) => cells.append_option(i64::try_from(time).ok()),
            (Self::Integer(cells), _) => cells.append_null(),
            (Self::Real(cells), _) => cells.append_null(),
            (Self::Text(cells), _) => cells.append_null(),
            (Self::Time(cells), _) => cells.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Integer(cells) => Arc::new(cells.finish()),
            Self::Real(cells) => Arc::new(cells.finish()),
            Self::Text(cells) => Arc::new(cells.finish()),
            Self::Time(cells) => Arc::new(cells.finish()),
        }
    }
}

impl Parquet {
    /// A file on `out` with the features of `set`.
    ///
    /// # Errors
    /// The beginning cannot be written.
    pub fn new(out: Box<dyn Write + Send>, set: &'static FeatureSet, extent: Extent) -> Result<Self> {
        let columns: Vec<_> = columns(set, extent).into_iter().map(|c| (c, Builder::new(c.kind()))).collect();
        let fields: Vec<Field> = columns
            .iter()
            .map(|(column, _)| Field::new(column.name(), Builder::data_type(column.kind()), true))
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
        Ok(Self { writer: Some(writer), schema, columns, rows: 0 })
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
        for (column, builder) in &mut self.columns {
            builder.push(column.cell(scored));
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
