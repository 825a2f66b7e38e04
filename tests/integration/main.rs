//! What FlowMeter promises and any user can see: captures in, flows, features, scores and figures out. No privilege is needed.
//!
//! One module a promise. `cargo test` runs them; what needs root and a kernel is in `tests/system`.
//!
//! | promise | module | needs beside the binary |
//! |---|---|---|
//! | headers are read right, truncated or impossible | [`parser`] | |
//! | a flow depends on its own packets alone | [`flows`] | |
//! | what surrounds a flow is counted as defined, in bounded memory | [`context`] | |
//! | no feature repeats another, none is constant | [`features`] | |
//! | Community IDs are those of the specification | [`community_id`] | |
//! | all formats hold the same flows with the same values | [`outputs`] | ONNX Runtime |
//! | other tools read what is written for them | [`other_tools`] | ONNX Runtime, nfcapd |
//! | a wrong clock costs a capture nothing but that clock's reading | [`clocks`] | ONNX Runtime |
//! | no command writes over what it reads, nor over an earlier result before the new one is whole | [`nothing_lost`] | |
//! | tables open at the first try | [`tables`] | |
//! | a batch is not lost for a row that has no score | [`unscorable`] | ONNX Runtime |
//! | every column is what its definition says | [`independent`] | python3, tshark |
//! | no capture makes FlowMeter fail; each packet is accounted for | [`corpora`] | the collections |
//! | a model that keeps the contract scores as its library does | [`models`] | ONNX Runtime |
//! | Deepfence FlowMeter's model says what it said there | [`seed`] | ONNX Runtime |
//! | figures of a run with known labels are right | [`evaluate`] | ONNX Runtime; python3, the collections |
//! | a network's own flows become a model that knows it | [`adapt`] | ONNX Runtime |
//! | a network's own flows set its thresholds | [`calibrate`] | ONNX Runtime |
//! | the programs of `examples/` work | [`examples`] | ONNX Runtime; python3 with pyarrow |
//! | the recorded sample is what its manifest says | [`sample`] | |
//!
//! A test that lacks what it needs says `NOT RUN` and passes; with `CI=true` it fails.

mod adapt;
mod calibrate;
mod clocks;
mod community_id;
mod context;
mod corpora;
mod evaluate;
mod examples;
mod features;
mod flows;
mod independent;
mod models;
mod nothing_lost;
mod other_tools;
mod outputs;
mod parser;
mod sample;
mod seed;
mod tables;
mod unscorable;
