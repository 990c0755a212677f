//! Wire formats: .proto files, generated code, conversions and error codes.
