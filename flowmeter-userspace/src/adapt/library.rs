//! The library: labelled flows of many networks, by their features alone, that every adaptation learns from.
//!
//! It is a Parquet table with a column an input (float32), and `malicious` (0 or 1), `weight` and `network` (a number that rows
//! of one network share), likewise float32; its key `flowmeter.feature_set` names the feature set. It holds no address, port,
//! time or name. `training/library.py` makes it.

use anyhow::{Context as _, Result, bail, ensure};
use arrow_array::cast::AsArray as _;
use arrow_array::types::Float32Type;
use arrow_array::{Array as _, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::features::FeatureSet;

/// The library that comes with this binary, for the feature set of the built-in model.
static BUILT_IN: &[u8] = include_bytes!("../../../models/library-v2.parquet");

/// What is no input.
const MALICIOUS: &str = "malicious";
const WEIGHT: &str = "weight";
const NETWORK: &str = "network";

/// Labelled rows.
pub struct Library {
    /// The set that inputs are features of.
    pub set: &'static FeatureSet,
    /// Index of each input in the set.
    pub columns: Vec<usize>,
    /// Row after row, a value for each input.
    pub values: Vec<f32>,
    /// Whether each row is of an attack.
    pub malicious: Vec<bool>,
    /// What each row counts among those of its class.
    pub weights: Vec<f64>,
    /// Which network each row is of.
    pub networks: Vec<u32>,
}

impl Library {
    /// The one that is built in.
    ///
    /// # Errors
    /// The binary is damaged.
    pub fn built_in() -> Result<Self> {
        Self::parse(Bytes::from_static(BUILT_IN)).context("the built-in library cannot be used")
    }

    fn parse(bytes: Bytes) -> Result<Self> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let metadata = reader.metadata().file_metadata().key_value_metadata();
        let id = metadata
            .and_then(|pairs| pairs.iter().find(|pair| pair.key == "flowmeter.feature_set"))
            .and_then(|pair| pair.value.as_deref())
            .context("it does not say of which feature set it is")?;
        let set = FeatureSet::find(id).with_context(|| format!("there is no feature set {id:?}"))?;
        let names = set.names();
        let inputs: Vec<String> = reader
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| ![MALICIOUS, WEIGHT, NETWORK].contains(&name.as_str()))
            .collect();
        let columns = inputs
            .iter()
            .map(|input| {
                let place = names.iter().position(|name| name == input);
                place.with_context(|| format!("{id} has no feature {input:?}"))
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(!columns.is_empty(), "it has no inputs");
        let mut library = Self {
            set,
            columns,
            values: Vec::new(),
            malicious: Vec::new(),
            weights: Vec::new(),
            networks: Vec::new(),
        };
        for batch in reader.build()? {
            library.take(&batch?, &inputs)?;
        }
        ensure!(
            library.malicious.contains(&true) && library.malicious.contains(&false),
            "it has rows of one class only"
        );
        Ok(library)
    }

    fn take(&mut self, batch: &RecordBatch, inputs: &[String]) -> Result<()> {
        let column = |name: &str| -> Result<&[f32]> {
            let array = batch.column_by_name(name).with_context(|| format!("it has no column {name:?}"))?;
            match array.as_primitive_opt::<Float32Type>() {
                Some(values) if array.null_count() == 0 => Ok(values.values()),
                _ => bail!("its column {name:?} is not of float32 throughout"),
            }
        };
        let inputs = inputs.iter().map(|name| column(name)).collect::<Result<Vec<_>>>()?;
        let (malicious, weights, networks) = (column(MALICIOUS)?, column(WEIGHT)?, column(NETWORK)?);
        for row in 0..batch.num_rows() {
            self.values.extend(inputs.iter().map(|values| values[row]));
            self.malicious.push(malicious[row] == 1.0);
            ensure!(weights[row] > 0.0, "row {} has the weight {}", self.weights.len(), weights[row]);
            self.weights.push(f64::from(weights[row]));
            self.networks.push(networks[row] as u32);
        }
        Ok(())
    }

    /// Number of inputs.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Names of the inputs.
    pub fn inputs(&self) -> Vec<&'static str> {
        let names = self.set.names();
        self.columns.iter().map(|&column| names[column]).collect()
    }

    /// The values of each row.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width())
    }

    /// What all rows of a class weigh.
    pub fn weight(&self, malicious: bool) -> f64 {
        self.malicious.iter().zip(&self.weights).filter(|(m, _)| **m == malicious).map(|(_, w)| w).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_library_holds_both_classes_and_nothing_but_features() {
        let library = Library::built_in().expect("the library");
        assert_eq!(library.set.id, crate::features::DEFAULT_SET.id);
        assert_eq!(library.values.len(), library.malicious.len() * library.width());
        assert!(library.values.iter().all(|value| value.is_finite()));
        assert!(library.weight(true) > 0.0 && library.weight(false) > 0.0);
        // What names a capture's site is no feature; the set itself has none, so that only its names are possible here.
        assert!(BUILT_IN.len() < 6 << 20, "{} bytes", BUILT_IN.len());
    }

    #[test]
    fn what_is_no_library_is_refused() {
        assert!(Library::parse(Bytes::from_static(b"PAR1")).is_err());
    }
}
