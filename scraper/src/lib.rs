//! The scraper role: discovery, scraping, parsing, relabelling, pushing.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod parse;
