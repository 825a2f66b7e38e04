//! Writes trees as an ONNX model that keeps the contract.
//!
//! Fields and numbers are those of onnx.proto (<https://github.com/onnx/onnx/blob/v1.19.0/onnx/onnx.proto>), in Protocol
//! Buffers' wire format; the operator is `TreeEnsembleRegressor` of `ai.onnx.ml`, followed by `Sigmoid`.

use super::trees::{Ensemble, Node};

/// `ModelProto.ir_version`, `AttributeProto.type` and element types, as numbers.
const IR_VERSION: u64 = 8;
const OPSET: u64 = 15;
const ML_OPSET: u64 = 3;
const FLOAT: u64 = 1;
const KIND_FLOATS: u64 = 6;
const KIND_INTS: u64 = 7;
const KIND_INT: u64 = 2;
const KIND_STRINGS: u64 = 8;
/// Wire types.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

/// The file's bytes: the trees over `width` inputs, with these metadata, whose keys stand without `flowmeter.`.
pub fn file(name: &str, trees: &Ensemble, width: usize, metadata: &[(&str, String)]) -> Vec<u8> {
    let mut model = Vec::new();
    integer(&mut model, 1, IR_VERSION);
    text(&mut model, 2, "flowmeter");
    bytes(&mut model, 7, &graph(name, trees, width));
    for (domain, version) in [("", OPSET), ("ai.onnx.ml", ML_OPSET)] {
        let mut opset = Vec::new();
        text(&mut opset, 1, domain);
        integer(&mut opset, 2, version);
        bytes(&mut model, 8, &opset);
    }
    for (key, value) in metadata {
        let mut entry = Vec::new();
        text(&mut entry, 1, &format!("flowmeter.{key}"));
        text(&mut entry, 2, value);
        bytes(&mut model, 14, &entry);
    }
    model
}

/// `GraphProto`.
fn graph(name: &str, trees: &Ensemble, width: usize) -> Vec<u8> {
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &ensemble(trees));
    bytes(&mut graph, 1, &node("Sigmoid", "", "log_odds", "score", &[]));
    text(&mut graph, 2, name);
    bytes(&mut graph, 11, &tensor("features", width as u64));
    bytes(&mut graph, 12, &tensor("score", 1));
    graph
}

/// `NodeProto`.
fn node(operator: &str, domain: &str, input: &str, output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut node = Vec::new();
    text(&mut node, 1, input);
    text(&mut node, 2, output);
    text(&mut node, 4, operator);
    attributes.iter().for_each(|attribute| bytes(&mut node, 5, attribute));
    text(&mut node, 7, domain);
    node
}

/// `ValueInfoProto` of float32, any number of rows.
fn tensor(name: &str, width: u64) -> Vec<u8> {
    let (mut rows, mut columns, mut shape) = (Vec::new(), Vec::new(), Vec::new());
    text(&mut rows, 2, "N");
    integer(&mut columns, 1, width);
    bytes(&mut shape, 1, &rows);
    bytes(&mut shape, 1, &columns);
    let (mut tensor, mut kind, mut value) = (Vec::new(), Vec::new(), Vec::new());
    integer(&mut tensor, 1, FLOAT);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut kind, 1, &tensor);
    text(&mut value, 1, name);
    bytes(&mut value, 2, &kind);
    value
}

/// The node with all trees.
fn ensemble(ensemble: &Ensemble) -> Vec<u8> {
    let (mut trees, mut ids, mut features, mut values, mut modes) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut yes, mut no) = (vec![], vec![]);
    let (mut leaf_trees, mut leaf_ids, mut leaves) = (vec![], vec![], vec![]);
    for (tree, nodes) in (0..).zip(&ensemble.trees) {
        for (id, node) in (0..).zip(nodes) {
            trees.push(tree);
            ids.push(id);
            let (input, threshold, children, mode) = match *node {
                Node::Branch { input, threshold, children } => {
                    (input.into(), threshold, children.map(u64::from), "BRANCH_LT")
                }
                Node::Leaf(value) => {
                    leaf_trees.push(tree);
                    leaf_ids.push(id);
                    leaves.push(value);
                    (0, 0.0, [0, 0], "LEAF")
                }
            };
            features.push(input);
            values.push(threshold);
            modes.push(mode);
            yes.push(children[0]);
            no.push(children[1]);
        }
    }
    let targets = vec![0; leaves.len()];
    let attributes = [
        integers("nodes_treeids", &trees),
        integers("nodes_nodeids", &ids),
        integers("nodes_featureids", &features),
        integers("nodes_truenodeids", &yes),
        integers("nodes_falsenodeids", &no),
        floats("nodes_values", &values),
        strings("nodes_modes", &modes),
        integers("target_treeids", &leaf_trees),
        integers("target_nodeids", &leaf_ids),
        integers("target_ids", &targets),
        floats("target_weights", &leaves),
        floats("base_values", &[ensemble.base]),
        one("n_targets", 1),
    ];
    node("TreeEnsembleRegressor", "ai.onnx.ml", "features", "log_odds", &attributes)
}

/// `AttributeProto` of several integers.
fn integers(name: &str, values: &[u64]) -> Vec<u8> {
    let mut all = attribute(name, KIND_INTS);
    values.iter().for_each(|&value| integer(&mut all, 8, value));
    all
}

/// `AttributeProto` of one integer.
fn one(name: &str, value: u64) -> Vec<u8> {
    let mut all = attribute(name, KIND_INT);
    integer(&mut all, 3, value);
    all
}

/// `AttributeProto` of several float32.
fn floats(name: &str, values: &[f32]) -> Vec<u8> {
    let mut all = attribute(name, KIND_FLOATS);
    let packed: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes(&mut all, 7, &packed);
    all
}

/// `AttributeProto` of several texts.
fn strings(name: &str, values: &[&str]) -> Vec<u8> {
    let mut all = attribute(name, KIND_STRINGS);
    values.iter().for_each(|value| text(&mut all, 9, value));
    all
}

fn attribute(name: &str, kind: u64) -> Vec<u8> {
    let mut start = Vec::new();
    text(&mut start, 1, name);
    integer(&mut start, 20, kind);
    start
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn integer(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3 | VARINT);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | LENGTH);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn text(out: &mut Vec<u8>, field: u64, content: &str) {
    bytes(out, field, content.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups_of_seven_bits() {
        let mut out = Vec::new();
        integer(&mut out, 1, 300);
        assert_eq!(out, [0x08, 0xac, 0x02]);
    }

    #[test]
    fn texts_have_their_length_before_them() {
        let mut out = Vec::new();
        text(&mut out, 2, "ab");
        assert_eq!(out, [0x12, 2, b'a', b'b']);
    }
}
