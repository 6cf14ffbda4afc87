//! The time, as the SOAP service gives it (docs/protocol.md 5).

use std::time::{Duration, Instant};

use lonja_wire::Datetime;
use quick_xml::{Reader, events::Event};

/// How long the SOAP service may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// How old a time may be for [`Clock::recent`] to give it again.
const RECENT: Duration = Duration::from_secs(1);
/// How long [`Clock::recent`] does not ask a service that has failed.
const AGAIN: Duration = Duration::from_secs(30);
/// The largest size of an answer of the service, in bytes.
const ANSWER: u64 = 64 << 10;

const CALL: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <soap:Envelope xmlns:soap=\"http://schemas.xmlsoap.org/soap/envelope/\"><soap:Body>\
    <datetime xmlns=\"http://tests.python-zeep.org/\"/></soap:Body></soap:Envelope>";

/// A client of the SOAP service that gives the time.
#[derive(Debug)]
pub(crate) struct Clock {
    url: String,
    agent: ureq::Agent,
    warned: bool,
    failed: Option<Instant>,
    last: Option<(Instant, Datetime)>,
}

/// Why the service gave no time.
#[derive(Debug, thiserror::Error)]
enum ClockError {
    #[error(transparent)]
    Http(#[from] ureq::Error),
    #[error("the answer has no datetimeResult")]
    NoTime,
}

impl Clock {
    /// A clock that asks the service at `url`. A query such as `?wsdl` is left out.
    #[must_use]
    pub(crate) fn new(url: &str) -> Self {
        let url = url.split('?').next().unwrap_or_default().to_owned();
        let config = ureq::Agent::config_builder().timeout_global(Some(DEADLINE)).proxy(None);
        Self { url, agent: config.build().new_agent(), warned: false, failed: None, last: None }
    }

    /// Asks the service for the time. A request must not fail for want of a time: if the service
    /// gives none, this machine's time is taken, and standard error says so once.
    pub(crate) fn now(&mut self) -> Datetime {
        let asked = self.ask();
        self.failed = asked.is_err().then(Instant::now);
        let datetime = asked.unwrap_or_else(|error| {
            if !self.warned {
                self.warned = true;
                complain!("lonja: no time from {}, using this machine's clock: {error}", self.url);
            }
            local()
        });
        self.last = Some((Instant::now(), datetime.clone()));
        datetime
    }

    /// The time for one of many requests in a row. The time may be [`RECENT`] old; for [`AGAIN`]
    /// after the service has failed, this machine's time is taken.
    pub(crate) fn recent(&mut self) -> Datetime {
        match &self.last {
            Some((when, datetime)) if when.elapsed() < RECENT => datetime.clone(),
            _ if self.failed.is_some_and(|when| when.elapsed() < AGAIN) => local(),
            _ => self.now(),
        }
    }

    fn ask(&self) -> Result<Datetime, ClockError> {
        let request = self.agent.post(&self.url).header("content-type", "text/xml; charset=utf-8");
        let mut answer = request.header("soapaction", "\"datetime\"").send(CALL)?;
        let answer = answer.body_mut().with_config().limit(ANSWER).read_to_string()?;
        read(&answer).ok_or(ClockError::NoTime)
    }
}

fn local() -> Datetime {
    let text = jiff::Zoned::now().strftime("%d/%m/%Y %H:%M:%S").to_string();
    // The text has 19 digits and separators, which a field always holds.
    text.parse().unwrap_or_else(|_| unreachable!("{text}"))
}

/// Reads the time from the element `datetimeResult` of an answer.
fn read(answer: &str) -> Option<Datetime> {
    let mut reader = Reader::from_str(answer);
    let mut inside = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => inside = element.local_name().as_ref() == "datetimeResult",
            Event::Text(text) if inside => return text.parse().ok(),
            Event::End(_) => inside = false,
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_whatever_the_prefixes() {
        let answer = "<?xml version='1.0'?><e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/'>\
            <e:Body><x:datetimeResponse xmlns:x='http://tests.python-zeep.org/'>\
            <x:datetimeResult>12/05/2024 10:00:00</x:datetimeResult></x:datetimeResponse></e:Body></e:Envelope>";
        assert_eq!(read(answer).unwrap().as_str(), "12/05/2024 10:00:00");
        for none in [
            "",
            "<a",
            "<datetimeResult/>",
            "<a>12/05/2024 10:00:00</a>",
            "<datetimeResult>\u{1b}</datetimeResult>",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn without_the_service_the_time_is_local() {
        let mut clock = Clock::new("http://127.0.0.1:1/?wsdl");
        assert_eq!(clock.now().as_str().len(), 19);
    }
}
