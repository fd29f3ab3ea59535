//! Daily hours in a time zone: `08:00-20:00 Asia/Shanghai`. A span may cross midnight.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

/// A daily span of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    from: Time,
    to: Time,
    zone: TimeZone,
    text: String,
}

impl Hours {
    /// Whether a moment lies in it; the end is not part of it.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        let time = now.to_zoned_datetime(self.zone.clone()).time();
        if self.from <= self.to {
            self.from <= time && time < self.to
        } else {
            time >= self.from || time < self.to
        }
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("hours `{text}` are not like `08:00-20:00 Asia/Shanghai`");
        let (span, zone) = text.trim().split_once(' ').ok_or_else(wanted)?;
        let (from, to) = span.split_once('-').ok_or_else(wanted)?;
        let time = |t: &str| Time::strptime("%H:%M", t).map_err(|_| wanted());
        let zone = TimeZone::get(zone.trim()).map_err(|_| format!("time zone `{}` is not known", zone.trim()))?;
        let to = if to == "24:00" { Time::MAX } else { time(to)? };
        Ok(Self {
            from: time(from)?,
            to,
            zone,
            text: text.trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_told_in_their_zone() {
        let hours: Hours = "08:00-20:00 Asia/Shanghai".parse().unwrap();
        assert!(hours.contains("2026-11-24T00:00:00Z".parse().unwrap()));
        assert!(!hours.contains("2026-11-24T12:00:00Z".parse().unwrap()));
        let night: Hours = "22:00-06:00 UTC".parse().unwrap();
        assert!(night.contains("2026-11-24T23:00:00Z".parse().unwrap()));
        assert!(night.contains("2026-11-24T05:59:00Z".parse().unwrap()));
        assert!(!night.contains("2026-11-24T06:00:00Z".parse().unwrap()));
        assert!("8-20".parse::<Hours>().is_err());
        assert!(
            "08:00-20:00 Mars/Olympus"
                .parse::<Hours>()
                .unwrap_err()
                .contains("Mars/Olympus")
        );
    }
}
