//! PromQL: parser, plan and engine over a series source; no I/O.
