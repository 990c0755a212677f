//! The PromQL parser: no input may panic, and what it prints it must read back to the same text.
#![no_main]

use gnomon_promql::{ParseOptions, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = ParseOptions::default();
    if let Ok(expr) = parse(text, &options) {
        let printed = expr.to_string();
        match parse(&printed, &options) {
            Ok(again) => assert_eq!(again.to_string(), printed, "from {text:?}"),
            Err(error) => panic!("{text:?} prints as {printed:?}, which is refused: {error}"),
        }
    }
});
