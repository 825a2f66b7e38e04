//! ONNX files for tests: changes the metadata of one, and makes tiny ones with wrong inputs and outputs.
//!
//! Fields and numbers are those of onnx.proto (<https://github.com/onnx/onnx/blob/v1.19.0/onnx/onnx.proto>), in Protocol
//! Buffers' wire format.

use anyhow::{Context as _, Result, bail};

/// `ModelProto.metadata_props`.
const METADATA: u64 = 14;

/// Element types of tensors.
pub mod element {
    /// `TensorProto.FLOAT`.
    pub const FLOAT: u64 = 1;
    /// `TensorProto.INT64`.
    pub const INT64: u64 = 7;
}

/// A model file with other metadata: each key of `changes` gets that value, or goes. Keys stand without `flowmeter.`.
///
/// # Errors
/// The file is no message of Protocol Buffers.
pub fn with_metadata(model: &[u8], changes: &[(&str, Option<&str>)]) -> Result<Vec<u8>> {
    let mut changed = Vec::new();
    let mut rest = model;
    while !rest.is_empty() {
        let before = rest;
        let tag = number(&mut rest)?;
        let content = match tag & 7 {
            0 => {
                number(&mut rest)?;
                &[][..]
            }
            2 => {
                let length = number(&mut rest)? as usize;
                let content = rest.get(..length).context("a field is longer than the file")?;
                rest = &rest[length..];
                content
            }
            other => bail!("a field of wire type {other}"),
        };
        let goes = tag >> 3 == METADATA
            && changes.iter().any(|(key, _)| {
                let name = format!("flowmeter.{key}");
                content.starts_with(&bytes_field(1, name.as_bytes()))
            });
        if !goes {
            changed.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    for (key, value) in changes {
        if let Some(value) = value {
            let entry =
                [bytes_field(1, format!("flowmeter.{key}").as_bytes()), bytes_field(2, value.as_bytes())];
            changed.extend(bytes_field(METADATA, &entry.concat()));
        }
    }
    Ok(changed)
}

/// A model that gives out what it takes, as often as asked: tensors of such elements and shapes; a dimension 0 is open.
pub fn identity(element: u64, shape: &[u64], outputs: usize) -> Vec<u8> {
    let tensor = |name: &str| {
        let dimension = |(i, size): (usize, &u64)| match size {
            0 => bytes_field(1, &bytes_field(2, format!("open{i}").as_bytes())),
            size => bytes_field(1, &number_field(1, *size)),
        };
        let shape: Vec<u8> = shape.iter().enumerate().flat_map(dimension).collect();
        let kind = bytes_field(1, &[number_field(1, element), bytes_field(2, &shape)].concat());
        [bytes_field(1, name.as_bytes()), bytes_field(2, &kind)].concat()
    };
    let names: Vec<String> = (0..outputs).map(|i| format!("output{i}")).collect();
    let mut graph = Vec::new();
    for name in &names {
        let node = [bytes_field(1, b"input"), bytes_field(2, name.as_bytes()), bytes_field(4, b"Identity")];
        graph.extend(bytes_field(1, &node.concat()));
    }
    graph.extend(bytes_field(2, b"identity"));
    graph.extend(bytes_field(11, &tensor("input")));
    graph.extend(names.iter().flat_map(|name| bytes_field(12, &tensor(name))));
    // The format's version 8, the operators' version 15.
    [number_field(1, 8), bytes_field(7, &graph), bytes_field(8, &number_field(2, 15))].concat()
}

fn number(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().context("the file ends within a number")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number is too long")
}

fn encode(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number_field(field: u64, value: u64) -> Vec<u8> {
    [encode(field << 3), encode(value)].concat()
}

fn bytes_field(field: u64, content: &[u8]) -> Vec<u8> {
    [encode(field << 3 | 2), encode(content.len() as u64), content.to_vec()].concat()
}
