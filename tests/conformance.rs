//! Is gnomon's PromQL Prometheus'? Test scripts through the whole read path, random queries and regular expressions
//! against a real Prometheus 2.42. `make conformance` runs all of it and more of it (`docs/conformance.md`).

mod harness;

#[path = "conformance/answers.rs"]
mod answers;
#[path = "conformance/differential.rs"]
mod differential;
#[path = "conformance/exceptions.rs"]
mod exceptions;
#[path = "conformance/memory_log.rs"]
mod memory_log;
#[path = "conformance/regexes.rs"]
mod regexes;
#[path = "conformance/scripts.rs"]
mod scripts;
#[path = "conformance/store.rs"]
mod store;
#[path = "conformance/whole_path.rs"]
mod whole_path;
