//! Now, as protocols write it.

use std::time::SystemTime;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// RFC 9110, section 5.6.7.
pub fn http_date() -> String {
    let now = now();
    let (weekday, month) = (WEEKDAYS[(now.days % 7) as usize], MONTHS[now.month]);
    format!("{weekday}, {:02} {month} {} {} GMT", now.day, now.year, now.time)
}

/// RFC 3339.
pub fn iso_date() -> String {
    let now = now();
    format!("{}-{:02}-{:02}T{}Z", now.year, now.month + 1, now.day, now.time)
}

struct Now {
    /// Since 1970.
    days: u64,
    year: u64,
    /// From 0.
    month: usize,
    /// From 1.
    day: u64,
    time: String,
}

fn now() -> Now {
    let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let time = format!("{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60);
    Now {
        days,
        year,
        month,
        day: day + 1,
        time,
    }
}
