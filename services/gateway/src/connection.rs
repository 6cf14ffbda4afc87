//! One connection: collect the request, have it carried out and recorded, answer, close.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::{Buf, Bytes};
use lonja_chassis::{clock, operation_log::OperationLog};
use lonja_origin::Rates;
use lonja_proto::audit::{self, OperationRecord};
use lonja_recorder::Recorder;
use lonja_rpc::{HELD_AT_MOST, in_time};
use lonja_telemetry::{
    throttle::Throttle,
    traces::{self, Span, names},
};
use lonja_wire::{
    BadRequest, Command, Dialect, Encoding, MAX_REQUEST, Operation, Outcome, Printable, Progress, Request,
    Username, decode, decode_final, encoding_of, is_original,
};
use opentelemetry::{KeyValue, context::FutureExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{self, Instant},
};

use crate::{
    backend::{DEADLINE, NotDone, is_held},
    companion::Companion,
    dialects::Dialects,
    learning::{Doubts, Learning},
    lists::Rendered,
    metrics::Metrics,
    operations::{Content, Done, Hints, Operations},
    stream::{LINGER, PeerStream, linger, write},
};

/// How long to wait for more bytes of a request that is complete unless padding or a datetime
/// follows (docs/protocol.md 2).
const GRACE: Duration = Duration::from_millis(300);

/// Bounds the log of bad requests, which peers can send at will.
static BAD_REQUESTS: Throttle = Throttle::events();
/// Bounds the log of lists that were cut.
static LISTS_CUT: Throttle = Throttle::condition();
/// Bounds the log of requests that a service did not answer in time.
static NO_ANSWERS: Throttle = Throttle::events();

/// What all connections of a gateway share.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    pub(crate) operations: Operations,
    pub(crate) recorder: Recorder,
    pub(crate) lines: OperationLog,
    pub(crate) metrics: Metrics,
    pub(crate) dialects: Dialects,
    pub(crate) doubts: Doubts,
    pub(crate) rates: Rates,
    pub(crate) request_timeout: Duration,
}

/// The bytes of a request that have arrived so far.
pub(crate) struct Input {
    // On the heap, so that moving a connection's task does not copy the buffer.
    bytes: Box<[u8]>,
    len: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; MAX_REQUEST].into(), len: 0 }
    }

    pub(crate) fn arrived(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The free part of the buffer, into which more may be read.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Counts `more` bytes of the room as arrived.
    pub(crate) fn grow(&mut self, more: usize) {
        self.len += more;
    }

    /// Removes the first `length` bytes, which are not part of the request.
    pub(crate) fn skip(&mut self, length: usize) {
        self.bytes.copy_within(length..self.len, 0);
        self.len -= length;
    }

    /// Collects bytes until they are a request or cannot become one.
    async fn read(&mut self, stream: &mut impl PeerStream) -> Result<Request, BadRequest> {
        loop {
            let progress = decode(self.arrived());
            let more = stream.read(&mut self.bytes[self.len..]);
            let more = match progress {
                Progress::Complete(request) => return Ok(request),
                Progress::Bad(bad) => return Err(bad),
                Progress::Incomplete => more.await,
                Progress::Tentative => time::timeout(GRACE, more).await.unwrap_or(Ok(0)),
            };
            match more {
                // No more bytes come in time, or no more fit into a request.
                Ok(0) | Err(_) => return decode_final(self.arrived()),
                Ok(more) => self.len += more,
            }
        }
    }

    /// The encoding of the request, judged by the bytes that have arrived by now.
    fn encoding(&mut self, stream: &mut impl PeerStream) -> Encoding {
        if let Ok(more) = stream.read_arrived(&mut self.bytes[self.len..]) {
            self.len += more;
        }
        encoding_of(self.arrived())
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The address of the peer, as a trusted proxy names the address; without a proxy, the socket's.
    pub(crate) peer: SocketAddr,
    /// The dialect of every peer at this listener; `None` if peers show what they read.
    pub(crate) dialect: Option<Dialect>,
}

/// Serves a connection to its end. `input` has the bytes that have arrived already.
pub(crate) async fn serve(
    mut stream: impl PeerStream,
    origin: Origin,
    mut input: Input,
    shared: &ConnectionContext,
) {
    let (started, accepted) = (Instant::now(), SystemTime::now());
    let read = time::timeout(shared.request_timeout, input.read(&mut stream)).await;
    let request = read.unwrap_or_else(|_| {
        shared.metrics.timed_out.increment(1);
        decode_final(input.arrived())
    });
    let peer = origin.peer;
    let set = origin.dialect.or_else(|| shared.dialects.of(peer.ip()));
    let hints = Hints { set, is_original: is_original(input.arrived()) };
    let mut trace = None;
    let answer = match &request {
        Ok(request) => {
            trace = begin_trace(request, &stream, peer, accepted);
            let answer = shared.answer(request, peer, hints, || input.encoding(&mut stream));
            // Boxed, so that the task of a connection that has not sent a request yet stays small.
            match &trace {
                Some(root) => Box::pin(answer.with_context(root.context())).await,
                None => Box::pin(answer).await,
            }
        }
        Err(bad) => match shared.answer_bad(bad, peer, set) {
            Some(answer) => answer,
            None => return,
        },
    };
    let dialect = answer.dialect(input.encoding(&mut stream));
    shared.metrics.answered(answer.operation, dialect, answer.status, started.elapsed());
    let reply = shared.reply(&answer, dialect, peer);
    if let Some(root) = &trace {
        root.set(KeyValue::new(names::DIALECT, dialect.name()));
        root.set(KeyValue::new(names::STATUS, i64::from(answer.status)));
        if answer.status == answer.operation.status(Outcome::Failed) {
            root.fail("failed".to_owned());
        }
    }
    // A peer that was refused, or could not be served, must not change what is known of the user.
    let learns = request.as_ref().ok().filter(|_| answer.status != answer.operation.status(Outcome::Failed));
    let is_noted = hints.set.is_none() && answer.known.is_some() && answer.is_status();
    let is_watched = dialect == Dialect::Char && answer.known.is_none() && answer.is_status();
    let sent = write(&mut stream, reply, !is_watched).await;
    drop(trace);
    if let Err(error) = sent {
        // Of another error there is nothing to tell: a peer that is gone needs no reply.
        if error.kind() == io::ErrorKind::TimedOut {
            shared.metrics.not_taken.increment(1);
        }
        return;
    }
    if is_watched {
        shared.learning(peer).watch(&mut stream, &mut input.bytes, learns).await;
    } else if stream.shutdown().await.is_ok() {
        let closed = time::timeout(LINGER.0, linger(&mut stream, &mut input.bytes)).await;
        if let (Ok(Err(_)), Some(request), true) = (closed, learns, is_noted) {
            shared.learning(peer).has_left_its_reply(request).await;
        }
    }
}

/// Begins the trace of a request, with the time at which the connection was accepted as its beginning. `None` if
/// the request is not traced.
fn begin_trace(
    request: &Request,
    stream: &impl PeerStream,
    peer: SocketAddr,
    accepted: SystemTime,
) -> Option<Span> {
    if !traces::is_on() {
        return None;
    }
    let operation = request.command.operation().name();
    let root = Span::root(operation, accepted)?;
    let connected = stream.other_end().map(|address| address.ip().to_string());
    root.set(KeyValue::new(names::OPERATION, operation));
    root.set(KeyValue::new(names::CLIENT_ADDRESS, peer.ip().to_string()));
    root.set(KeyValue::new(names::CLIENT_PORT, i64::from(peer.port())));
    root.set(KeyValue::new(names::NETWORK_PEER_ADDRESS, connected.unwrap_or_default()));
    Some(root)
}

/// The answer to a peer.
struct Answer {
    operation: Operation,
    status: u8,
    content: Content,
    /// What the peer is known to read, by a setting or by what was noted for the user.
    known: Option<Dialect>,
}

impl Answer {
    /// The dialect of the reply to a request of this encoding.
    fn dialect(&self, encoding: Encoding) -> Dialect {
        self.known.unwrap_or_else(|| match self.operation {
            // No peer that asks the index for a file reads a bare digit.
            Operation::GetFile => Dialect::Text,
            _ => Dialect::of_encoding(encoding),
        })
    }

    fn is_status(&self) -> bool {
        matches!(self.content, Content::Status)
    }
}

impl ConnectionContext {
    fn learning(&self, peer: SocketAddr) -> Learning<'_> {
        Learning { operations: &self.operations, metrics: &self.metrics, doubts: &self.doubts, peer }
    }

    async fn answer(
        &self,
        request: &Request,
        peer: SocketAddr,
        hints: Hints,
        mut encoding: impl FnMut() -> Encoding,
    ) -> Answer {
        let operation = request.command.operation();
        let username = request.username.as_ref().map_or("", Username::as_str);
        self.lines.line(|line| {
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(line, "s> OPERATION FROM {}", Printable(username));
        });
        if !self.rates.admit(peer.ip(), operation) {
            let status = operation.status(Outcome::Failed);
            return Answer { operation, status, content: Content::Status, known: hints.set };
        }
        let since = Instant::now();
        let companion = Companion::new(&self.recorder, operation, hints.set, || {
            let dialect = hints.set.unwrap_or_else(|| Dialect::of_encoding(encoding()));
            record(request, peer, 0, dialect)
        });
        let (outcome, done) = match self.carry_out(request, peer, hints, &companion, since).await {
            Ok(done) => (Outcome::Ok, done),
            Err(NotDone(outcome)) => (outcome, Done::STATUS),
        };
        let status = operation.status(outcome);
        let answer = Answer { operation, status, content: done.content, known: hints.set.or(done.dialect) };
        // The record is in the commit of the change, which the answer has waited for, unless the time was up before.
        if companion.has_the_record() {
            return answer;
        }
        let dialect = answer.dialect(encoding());
        // The record is queued even if no time is left; the deadline ends only the wait for its
        // delivery. When a request that was held is done, the audit's store is back too.
        let was_held = since.elapsed() > DEADLINE && outcome != Outcome::Failed;
        if was_held {
            self.metrics.held.increment(1);
        }
        let deadline =
            if was_held { (Instant::now() + DEADLINE).min(since + HELD_AT_MOST) } else { since + DEADLINE };
        let _ =
            time::timeout_at(deadline, self.recorder.record(record(request, peer, status, dialect))).await;
        answer
    }

    async fn carry_out(
        &self,
        request: &Request,
        peer: SocketAddr,
        hints: Hints,
        companion: &Companion,
        since: Instant,
    ) -> Result<Done, NotDone> {
        let work = async {
            if hints.set.is_none() {
                self.doubts.are_over(request).await;
            }
            self.operations.carry_out(request, peer, hints, companion).await
        };
        let is_held = || is_held(&self.operations.backend);
        let done = in_time(since, DEADLINE, is_held, work).await;
        done.unwrap_or_else(|| {
            if let Some(suppressed) = NO_ANSWERS.admit() {
                let operation = request.command.operation().name();
                tracing::warn!(operation, suppressed, "a service does not answer");
            }
            Err(NotDone(Outcome::Failed))
        })
    }

    fn answer_bad(&self, bad: &BadRequest, peer: SocketAddr, known: Option<Dialect>) -> Option<Answer> {
        self.metrics.bad(bad);
        // A connection that named no operation is not logged: load balancers open and close such
        // connections.
        if *bad != BadRequest::NoOperation
            && let Some(suppressed) = BAD_REQUESTS.admit()
        {
            tracing::warn!(%peer, %bad, suppressed, "bad request");
        }
        bad.answer().map(|(operation, status)| Answer { operation, status, content: Content::Status, known })
    }

    /// The bytes of a reply, in two pieces.
    fn reply(&self, answer: &Answer, dialect: Dialect, peer: SocketAddr) -> impl Buf + use<> {
        let (head, body) = match &answer.content {
            Content::Status => (Bytes::from_static(dialect.status(answer.status)), Bytes::new()),
            Content::Strings(list) => (list.reply.clone(), Bytes::new()),
            Content::Owner(address, port) => (dialect.address(*address, *port).into(), Bytes::new()),
            Content::List(list) => self.fixed(list, dialect.fixed().unwrap_or(Encoding::Terminated), peer),
        };
        head.chain(body)
    }

    /// The bytes of a list with fields of fixed width, in two pieces.
    fn fixed(&self, list: &Rendered, encoding: Encoding, peer: SocketAddr) -> (Bytes, Bytes) {
        let (head, body, sent) = list.reply(encoding);
        if sent < list.count() {
            self.metrics.lists_cut.increment(1);
            if let Some(suppressed) = LISTS_CUT.admit() {
                let entries = list.count();
                tracing::warn!(%peer, entries, sent, suppressed, "a list was cut at 9999 entries: a terminated peer can count no further");
            }
        }
        (head, body)
    }
}

fn record(request: &Request, peer: SocketAddr, status: u8, dialect: Dialect) -> OperationRecord {
    let subject = match &request.command {
        Command::Publish(filename, _) | Command::Delete(filename) => filename.to_string(),
        Command::ListContent(Some(second)) | Command::GetFile(Some(second)) => second.to_string(),
        _ => String::new(),
    };
    OperationRecord {
        operation: audit_operation(request.command.operation()).into(),
        username: request.username.as_ref().map(Username::to_string).unwrap_or_default(),
        subject,
        claimed_datetime: request.datetime.to_string(),
        handled_at: Some(clock::now().into()),
        peer_address: peer.to_string(),
        status: status.into(),
        trace_id: traces::current_ids().map(|(trace, _)| trace).unwrap_or_default(),
        dialect: dialect.name().to_owned(),
        operator: String::new(),
    }
}

fn audit_operation(operation: Operation) -> audit::Operation {
    match operation {
        Operation::Register => audit::Operation::Register,
        Operation::Unregister => audit::Operation::Unregister,
        Operation::Connect => audit::Operation::Connect,
        Operation::Disconnect => audit::Operation::Disconnect,
        Operation::Publish => audit::Operation::Publish,
        Operation::Delete => audit::Operation::Delete,
        Operation::ListUsers => audit::Operation::ListUsers,
        Operation::ListContent => audit::Operation::ListContent,
        Operation::GetFile => audit::Operation::GetFile,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const DATETIME: &str = "12/05/2024 10:00:00";

    /// A peer's end of a connection, and the gateway's.
    async fn connected() -> (TcpStream, TcpStream) {
        #[expect(clippy::disallowed_methods, reason = "a test needs no backlog")]
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, listener.accept().await.unwrap().0)
    }

    /// Reads the request of a peer that sends some bytes, and more bytes after a while. Gives also how
    /// long the request took.
    async fn read(first: &str, then: Option<(Duration, &str)>) -> (Result<Request, BadRequest>, Duration) {
        let (mut peer, mut stream) = connected().await;
        peer.write_all(first.as_bytes()).await.unwrap();
        let more = async {
            if let Some((pause, more)) = then {
                time::sleep(pause).await;
                peer.write_all(more.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let (mut input, began) = (Input::new(), Instant::now());
        let request = tokio::select! {
            request = input.read(&mut stream) => request,
            () = more => unreachable!("the peer stays"),
        };
        (request, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_certain_request_is_not_waited_for() {
        let (request, took) = read(&format!("REGISTER\0{DATETIME}\0alice\0"), None).await;
        assert_eq!(request.unwrap().username.unwrap().as_str(), "alice");
        assert!(took < Duration::from_millis(10), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_may_go_on_has_its_grace() {
        let undated = "LIST_USERS\0alice\0";
        let (request, took) = read(undated, None).await;
        assert_eq!(request.unwrap().datetime.to_string(), "");
        assert!((GRACE..2 * GRACE).contains(&took), "{took:?}");
        let dated = format!("{DATETIME}\0");
        let (request, took) = read(undated, Some((GRACE / 3, &dated))).await;
        assert_eq!(request.unwrap().datetime.to_string(), DATETIME);
        assert!((GRACE / 3..GRACE).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_incomplete_request_waits_for_as_long_as_it_is_given() {
        let rest = format!("TER\0{DATETIME}\0alice\0");
        let late = Duration::from_secs(9);
        let (request, took) = read("REGIS", Some((late, &rest))).await;
        assert_eq!(request.unwrap().command, Command::Register);
        assert!(took >= late);
    }

    #[tokio::test]
    async fn a_request_that_ends_early_is_told_apart() {
        for (sent, operation) in [("REGISTER\0", Some(Operation::Register)), ("REGIS", None), ("", None)] {
            let (mut peer, mut stream) = connected().await;
            peer.write_all(sent.as_bytes()).await.unwrap();
            drop(peer);
            let bad = Input::new().read(&mut stream).await.unwrap_err();
            assert_eq!(bad.answer().map(|(operation, _)| operation), operation, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn padding_that_comes_before_the_reply_counts() {
        let (mut peer, mut stream) = connected().await;
        peer.write_all(format!("LIST_USERS\0{DATETIME}\0alice\0").as_bytes()).await.unwrap();
        let mut input = Input::new();
        input.read(&mut stream).await.unwrap();
        assert_eq!(input.encoding(&mut stream), Encoding::Terminated);
        peer.write_all(&[0; 250]).await.unwrap();
        stream.readable().await.unwrap();
        assert_eq!(input.encoding(&mut stream), Encoding::Padded);
    }

    #[test]
    fn what_stands_before_a_request_is_skipped() {
        let mut input = Input::new();
        input.room()[..10].copy_from_slice(b"PROXY-abcd");
        input.grow(10);
        input.skip(6);
        assert_eq!(input.arrived(), b"abcd");
        assert_eq!(input.room().len(), MAX_REQUEST - 4);
    }
}
