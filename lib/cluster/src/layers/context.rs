//! Which request a piece of work belongs to, on whatever node it is done: the W3C `traceparent` header
//! (<https://www.w3.org/TR/trace-context/>, version 00).
//!
//! ```text
//! traceparent = "00-" trace id (32 hex digits) "-" span id (16) "-" flags (2)
//! ```

use std::fmt;
use tonic::codegen::http::{HeaderMap, HeaderValue};

/// The header's name, for HTTP and gRPC alike.
pub const TRACEPARENT: &str = "traceparent";

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// A request's identity, and the span of it that is being worked on. Shown as the trace id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// Of a request that brought none.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            // The specification forbids zeros.
            trace: rand::random::<u128>().max(1),
            span: rand::random::<u64>().max(1),
            flags: 0,
        }
    }

    /// What the running task works for.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| *context).ok()
    }

    /// The next span of the same request.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: rand::random::<u64>().max(1),
            ..self
        }
    }

    /// From a request's headers; none where there is none, or one that is not well formed.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let (trace, span) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
        let flags = hex(parts.next()?, 2)?;
        // Later versions may say more behind this; ff is never one.
        let known = version != 0xff && (version != 0 || parts.next().is_none());
        (known && trace != 0 && span != 0).then_some(Self {
            trace,
            span: u64::try_from(span).ok()?,
            flags: u8::try_from(flags).ok()?,
        })
    }

    #[must_use]
    pub fn header(self) -> Option<HeaderValue> {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags);
        HeaderValue::from_str(&text).ok()
    }

    /// Runs a future as work for this request.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    /// Lets a future that is spawned go on as work for the request of the task that spawns it.
    pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
        let current = Self::current();
        async move {
            match current {
                Some(context) => context.scope(work).await,
                None => work.await,
            }
        }
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.trace)
    }
}

/// Lower case, as the specification has it.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let well_formed = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    u128::from_str_radix(text, 16).ok().filter(|_| well_formed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_it_is_written_and_nothing_else_is() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).unwrap();
        assert_eq!(context.header().unwrap(), text);
        assert_eq!(context.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = context.child();
        assert!(child.trace == context.trace && child.span != context.span && child.flags == 1);
        assert!(TraceContext::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn spawned_work_belongs_to_the_request_that_spawned_it() {
        assert_eq!(TraceContext::current(), None);
        let context = TraceContext::begin();
        let seen = context.scope(async {
            let plain = tokio::spawn(async { TraceContext::current() }).await.unwrap();
            let carried = tokio::spawn(TraceContext::carried(async { TraceContext::current() }));
            (plain, carried.await.unwrap())
        });
        assert_eq!(seen.await, (None, Some(context)));
    }
}
