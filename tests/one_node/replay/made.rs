//! Expositions made for what recorded ones do not show.

use std::fmt::Write as _;

/// Counters with a reset, gauges, a classic histogram and a summary.
pub(super) fn node(out: &mut String, step: usize, at: i64) {
    out.push_str("# HELP cpu_seconds_total CPU time.\n# TYPE cpu_seconds_total counter\n");
    for cpu in 0..3 {
        for (m, mode) in ["idle", "user", "system"].iter().enumerate() {
            // Everything but cpu 2 starts again at step 70, as after a reboot.
            let since = if step >= 70 && cpu < 2 { step - 70 } else { step };
            let value = since as f64 * (0.37 + cpu as f64 + m as f64 * 3.1);
            let _ = writeln!(out, "cpu_seconds_total{{cpu=\"{cpu}\",mode=\"{mode}\"}} {value} {at}");
        }
    }
    out.push_str("# TYPE memory_bytes gauge\n");
    for (i, kind) in ["free", "cached", "used"].iter().enumerate() {
        let value = 1e9 + ((step * 7919 + i * 104_729) % 1000) as f64 * 12_345.678;
        let _ = writeln!(out, "memory_bytes{{kind=\"{kind}\"}} {value} {at}");
    }
    out.push_str("# TYPE request_seconds histogram\n");
    for handler in ["/", "/api"] {
        let mut total = 0.0;
        for (b, le) in ["0.1", "0.5", "1", "+Inf"].iter().enumerate() {
            total += (step * (b + 1 + handler.len())) as f64;
            let _ = writeln!(
                out,
                "request_seconds_bucket{{handler=\"{handler}\",le=\"{le}\"}} {total} {at}"
            );
        }
        let _ = writeln!(out, "request_seconds_sum{{handler=\"{handler}\"}} {} {at}", total * 0.3);
        let _ = writeln!(out, "request_seconds_count{{handler=\"{handler}\"}} {total} {at}");
    }
    out.push_str("# TYPE gc_seconds summary\n");
    for q in ["0.5", "0.9"] {
        let _ = writeln!(
            out,
            "gc_seconds{{quantile=\"{q}\"}} {} {at}",
            if step.is_multiple_of(9) { "NaN" } else { "0.25" }
        );
    }
}

/// Containers come and go, each with timestamps of its own.
pub(super) fn containers(out: &mut String, step: usize, at: i64) {
    out.push_str("# TYPE container_memory_bytes gauge\n# TYPE container_cpu_total counter\n");
    for generation in 0..=step / 20 {
        if step >= generation * 20 + 30 {
            continue;
        }
        for pod in 0..3 {
            let own = at - (pod as i64 * 1700 + generation as i64 * 13);
            let id = format!("id=\"/pod/{generation}/{pod}\",image=\"img:{}\"", pod % 2);
            let age = step - generation * 20;
            let _ = writeln!(out, "container_memory_bytes{{{id}}} {} {own}", 1e6 * (age + pod) as f64);
            let _ = writeln!(out, "container_cpu_total{{{id}}} {} {own}", age as f64 * 0.125);
        }
    }
}

/// Labels that collide with the target's.
pub(super) fn federated(out: &mut String, step: usize, at: i64) {
    for job in ["a", "b"] {
        let _ = writeln!(
            out,
            "federated_up{{job=\"{job}\",instance=\"far:{job}\"}} {} {at}",
            step % 2
        );
    }
    let _ = writeln!(
        out,
        "escaped{{text=\"a\\\\b\\\"c\\nd\",utf=\"\u{e4}\u{2603}\"}} {step} {at}"
    );
}
