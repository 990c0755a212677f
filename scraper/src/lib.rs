//! The scraper role: discovery, scraping, parsing, relabelling, pushing.

pub mod config;
