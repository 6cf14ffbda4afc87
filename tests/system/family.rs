//! Peers of other authors (docs/compatibility.md), written from the tables of docs/protocol.md as
//! bytes: one for each form of request and reply that is served.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    cluster::{Cluster, Service},
    eventually,
    process::{Index, Process, lonja},
    wire,
};

const DATETIME: &str = "12/05/2024 10:00:00";

/// Where a peer writes the datetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dated {
    First,
    /// Behind the last field, as long after that as this.
    Last(Duration),
    Never,
    /// On the same connection, when the reply has come.
    Afterwards,
}

/// What a peer writes into CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connect {
    Port,
    PortAddress,
    AddressPort,
}

/// How a peer reads a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The original: a byte, four digits, fields of fixed width.
    Char,
    /// As the original, but the peer takes all that one call gives for the status.
    CharInOneCall,
    /// The original's report: a byte, a 32-bit count, fields of fixed width.
    Padded,
    /// The status, counts and fields are strings, each with its NUL.
    Text,
    /// As `Text`, with one more string behind a count of 0.
    TextWithAnEnd,
    /// As `Text`, with one string for each entry.
    Rows,
    /// A byte from 0 to 4, then strings.
    Byte,
    /// A 32-bit number, then strings.
    Int32,
    /// A digit, then strings, names only.
    Names,
}

/// How a peer asks the index where a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    UserOwner,
    OwnerFile,
    OwnerFileLocal,
    UserOwnerFile,
}

/// A peer of another author.
#[derive(Debug, Clone, Copy)]
struct Form {
    name: &'static str,
    lower_case: bool,
    /// LIST_USERS and LIST_CONTENT end in a line feed.
    line_feed: bool,
    dated: Dated,
    connect: Connect,
    reading: Reading,
    asks: Option<Where>,
}

const ORIGINAL: Form = Form {
    name: "original",
    lower_case: false,
    line_feed: false,
    dated: Dated::First,
    connect: Connect::Port,
    reading: Reading::Char,
    asks: None,
};
const LATE: Dated = Dated::Last(Duration::from_millis(100));
const AT_ONCE: Dated = Dated::Last(Duration::ZERO);

const FORMS: [Form; 18] = [
    ORIGINAL,
    Form { name: "one call", reading: Reading::CharInOneCall, ..ORIGINAL },
    Form { name: "padded", reading: Reading::Padded, ..ORIGINAL },
    Form { name: "text", reading: Reading::Text, ..ORIGINAL },
    Form { name: "text with an end", reading: Reading::TextWithAnEnd, ..ORIGINAL },
    Form {
        name: "lower case",
        lower_case: true,
        reading: Reading::Text,
        asks: Some(Where::OwnerFile),
        ..ORIGINAL
    },
    Form { name: "line feed", line_feed: true, reading: Reading::Text, ..ORIGINAL },
    Form { name: "address behind", connect: Connect::PortAddress, reading: Reading::Text, ..ORIGINAL },
    Form { name: "address before", connect: Connect::AddressPort, reading: Reading::Byte, ..ORIGINAL },
    Form {
        name: "last",
        dated: AT_ONCE,
        reading: Reading::Text,
        asks: Some(Where::OwnerFileLocal),
        ..ORIGINAL
    },
    Form {
        name: "late",
        dated: LATE,
        connect: Connect::PortAddress,
        reading: Reading::Byte,
        asks: Some(Where::UserOwnerFile),
        ..ORIGINAL
    },
    Form {
        name: "never",
        dated: Dated::Never,
        reading: Reading::Text,
        asks: Some(Where::UserOwner),
        ..ORIGINAL
    },
    Form {
        name: "never, address",
        dated: Dated::Never,
        connect: Connect::AddressPort,
        reading: Reading::Byte,
        asks: Some(Where::OwnerFile),
        ..ORIGINAL
    },
    Form {
        name: "afterwards",
        dated: Dated::Afterwards,
        reading: Reading::Text,
        asks: Some(Where::OwnerFile),
        ..ORIGINAL
    },
    Form { name: "byte", reading: Reading::Byte, asks: Some(Where::UserOwner), ..ORIGINAL },
    Form { name: "rows", reading: Reading::Rows, ..ORIGINAL },
    Form { name: "int32", reading: Reading::Int32, ..ORIGINAL },
    Form { name: "2020", reading: Reading::Names, ..ORIGINAL },
];

impl Reading {
    /// The dialect for which a peer needs an address of its own; `None` if any address will do.
    fn own_port(self) -> Option<&'static str> {
        match self {
            Self::Rows => Some("rows"),
            Self::Byte => Some("byte"),
            Self::Int32 => Some("int32"),
            Self::Names => Some("names"),
            _ => None,
        }
    }
}

/// The addresses of an index: for any peer, and for those that need an address of their own.
#[derive(Debug, Clone)]
struct Ports(BTreeMap<&'static str, SocketAddr>);

const OWN: [&str; 4] = ["rows", "byte", "int32", "names"];

impl Ports {
    fn arguments(option: &'static str) -> Vec<String> {
        let own = OWN.iter().flat_map(|dialect| [option.to_owned(), format!("{dialect}=127.0.0.1:0")]);
        [option.to_owned(), "127.0.0.1:0".to_owned()].into_iter().chain(own).collect()
    }

    /// Reads the addresses from what a process prints.
    fn read(process: &Process, begins: &str) -> Self {
        let of = |ends: Option<&str>| {
            let is_meant = |line: &&String| match ends {
                Some(dialect) => line.starts_with(begins) && line.ends_with(&format!(" for {dialect}")),
                None => line.starts_with(begins) && !line.contains(" for "),
            };
            eventually("an address", || {
                let lines = process.stdout();
                lines.iter().find(is_meant)?.split_whitespace().find_map(|word| word.parse().ok())
            })
        };
        let own = OWN.into_iter().map(|dialect| (dialect, of(Some(dialect))));
        Self(own.chain([("any", of(None))]).collect())
    }

    fn of(&self, reading: Reading) -> SocketAddr {
        self.0[reading.own_port().unwrap_or("any")]
    }
}

impl Form {
    /// Sends a request as this peer does. `fields` stand behind the username.
    fn send(&self, ports: &Ports, operation: &str, user: &str, fields: &[&str]) -> Conversation {
        let mut stream = wire::connect(ports.of(self.reading));
        let code = if self.lower_case { operation.to_lowercase() } else { operation.to_owned() };
        let end = if self.line_feed && operation.starts_with("LIST") { "\n" } else { "\0" };
        let first = (self.dated == Dated::First).then_some(DATETIME);
        let names: Vec<_> = first.into_iter().chain([user]).filter(|name| !name.is_empty()).collect();
        let fields = names.into_iter().chain(fields.iter().copied());
        let mut request = format!("{code}{end}").into_bytes();
        for (place, field) in fields.enumerate() {
            request.extend(field.bytes().chain([0]));
            if self.reading == Reading::Padded {
                let width = if place == 0 {
                    20
                } else if operation == "CONNECT" && place == 2 {
                    6
                } else {
                    256
                };
                request.resize(request.len() + width - field.len() - 1, 0);
            }
        }
        // Some peers send field by field, and so every other request goes byte by byte.
        if operation.len().is_multiple_of(2) && self.reading != Reading::Padded {
            request.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
        } else {
            stream.write_all(&request).unwrap();
        }
        if let Dated::Last(after) = self.dated {
            thread::sleep(after);
            stream.write_all(format!("{DATETIME}\0").as_bytes()).unwrap();
        }
        Conversation { stream, form: *self, is_list: operation.starts_with("LIST") }
    }

    /// Asks for something that has only a status, reads the status as this peer does, and closes.
    fn status(&self, ports: &Ports, operation: &str, user: &str, fields: &[&str]) -> u8 {
        let mut conversation = self.send(ports, operation, user, fields);
        let status = conversation.status();
        if self.dated == Dated::Afterwards {
            let _ = conversation.stream.write_all(format!("{DATETIME}\0").as_bytes());
        }
        status
    }

    fn connect(&self, ports: &Ports, user: &str, port: u16) -> u8 {
        let port = port.to_string();
        let fields: &[&str] = match self.connect {
            Connect::Port => &[&port],
            Connect::PortAddress => &[&port, "0.0.0.0"],
            Connect::AddressPort => &["10.9.8.7", &port],
        };
        self.status(ports, "CONNECT", user, fields)
    }

    /// Asks for a list. Gives the rows, each with as many fields as this peer reads, or the status.
    fn list(
        &self,
        ports: &Ports,
        operation: &str,
        user: &str,
        fields: &[&str],
    ) -> Result<Vec<Vec<String>>, u8> {
        let mut conversation = self.send(ports, operation, user, fields);
        match conversation.status() {
            0 => Ok(conversation.rows(operation)),
            status => Err(status),
        }
    }

    /// Asks the index where the file of an owner is.
    fn find(
        &self,
        ports: &Ports,
        asks: Where,
        user: &str,
        owner: &str,
        file: &str,
    ) -> Result<(String, String), u8> {
        let mut conversation = match asks {
            Where::UserOwner => self.send(ports, "GET_FILE", user, &[owner]),
            Where::OwnerFile => self.send(ports, "GET_FILE", owner, &[file]),
            Where::OwnerFileLocal => self.send(ports, "GET_FILE", owner, &[file, "copy.txt"]),
            Where::UserOwnerFile => self.send(ports, "GET_FILE", user, &[owner, file]),
        };
        match conversation.status() {
            0 => Ok((conversation.string(), conversation.string())),
            status => Err(status),
        }
    }
}

/// A connection on which the request has been sent.
struct Conversation {
    stream: TcpStream,
    form: Form,
    is_list: bool,
}

impl Conversation {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.stream.read_exact(&mut bytes);
        read.unwrap_or_else(|error| panic!("{}: {error}", self.form.name));
        bytes
    }

    /// Reads up to a NUL, and waits for the NUL.
    fn string(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            match self.bytes() {
                [0] => return String::from_utf8(bytes).unwrap(),
                [byte] => bytes.push(byte),
            }
        }
    }

    fn field(&mut self, width: usize) -> String {
        let bytes: Vec<u8> = (0..width).map(|_| self.bytes::<1>()[0]).collect();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    }

    fn status(&mut self) -> u8 {
        let name = self.form.name;
        let digit = |text: &[u8]| {
            let digit = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            digit.unwrap_or_else(|| panic!("{name}: a status of {text:?}"))
        };
        match self.form.reading {
            Reading::CharInOneCall if !self.is_list => {
                let mut bytes = [0; 64];
                let read = self.stream.read(&mut bytes).unwrap();
                digit(&bytes[..read])
            }
            Reading::Char | Reading::CharInOneCall | Reading::Padded | Reading::Names => {
                digit(&self.bytes::<1>())
            }
            Reading::Text | Reading::TextWithAnEnd | Reading::Rows => digit(self.string().as_bytes()),
            Reading::Byte => self.bytes::<1>()[0],
            Reading::Int32 => u32::from_be_bytes(self.bytes()).try_into().unwrap(),
        }
    }

    fn rows(&mut self, operation: &str) -> Vec<Vec<String>> {
        let users = operation == "LIST_USERS";
        let count = match self.form.reading {
            Reading::Char | Reading::CharInOneCall => String::from_utf8(self.bytes::<4>().into()).unwrap(),
            Reading::Padded => u32::from_be_bytes(self.bytes()).to_string(),
            _ => self.string(),
        };
        let count: usize = count.parse().unwrap();
        if count == 0 && self.form.reading == Reading::TextWithAnEnd {
            assert_eq!(self.string(), "");
        }
        (0..count).map(|_| self.row(users)).collect()
    }

    fn row(&mut self, users: bool) -> Vec<String> {
        let (widths, strings): (&[usize], usize) = match (self.form.reading, users) {
            (Reading::Char | Reading::CharInOneCall | Reading::Padded, true) => (&[256, 16, 6], 0),
            (Reading::Char | Reading::CharInOneCall | Reading::Padded, false) => (&[256, 256], 0),
            (Reading::Rows, _) => {
                return self.string().splitn(if users { 3 } else { 2 }, ' ').map(str::to_owned).collect();
            }
            (Reading::Text | Reading::TextWithAnEnd, false) => (&[], 2),
            (Reading::Names, _) | (_, false) => (&[], 1),
            (_, true) => (&[], 3),
        };
        let fixed: Vec<_> = widths.iter().map(|width| self.field(*width)).collect();
        fixed.into_iter().chain((0..strings).map(|_| self.string()).collect::<Vec<_>>()).collect()
    }
}

/// Has a peer do everything that docs/protocol.md 3 has a row for. `ports` may lead each request to
/// another gateway.
fn everything(form: &Form, user: &str, port: u16, mut ports: impl FnMut() -> Ports) {
    let own = format!("{user}.txt");
    let mut status = |operation: &str, fields: &[&str]| form.status(&ports(), operation, user, fields);
    assert_eq!(status("UNREGISTER", &[]), 1, "{}", form.name);
    assert_eq!(status("PUBLISH", &[&own, "mine"]), 1, "{}", form.name);
    assert_eq!(status("REGISTER", &[]), 0, "{}", form.name);
    assert_eq!(status("REGISTER", &[]), 1, "{}", form.name);
    assert_eq!(status("DISCONNECT", &[]), 2, "{}", form.name);
    assert_eq!(form.list(&ports(), "LIST_USERS", user, &[]), Err(2), "{}", form.name);
    assert_eq!(form.connect(&ports(), user, port), 0, "{}", form.name);

    let users = form.list(&ports(), "LIST_USERS", user, &[]).unwrap();
    let full = [user.to_owned(), "127.0.0.1".to_owned(), port.to_string()];
    let expected = if form.reading == Reading::Names { &full[..1] } else { &full };
    assert!(users.iter().any(|row| row == expected), "{}: {users:?}", form.name);
    assert_eq!(form.list(&ports(), "LIST_CONTENT", user, &[user]), Ok(vec![]), "{}", form.name);

    let mut status = |operation: &str, fields: &[&str]| form.status(&ports(), operation, user, fields);
    assert_eq!(status("PUBLISH", &[&own, "a description"]), 0, "{}", form.name);
    assert_eq!(status("PUBLISH", &[&own, "again"]), 3, "{}", form.name);
    assert_eq!(status("PUBLISH", &["other", "two"]), 0, "{}", form.name);
    assert_eq!(status("DELETE", &["nothing"]), 3, "{}", form.name);
    assert_eq!(form.connect(&ports(), user, port), 2, "{}", form.name);
    let files = form.list(&ports(), "LIST_CONTENT", user, &[user]).unwrap();
    let full = [[own.as_str(), "a description"], ["other", "two"]];
    let fields = if matches!(form.reading, Reading::Byte | Reading::Int32 | Reading::Names) { 1 } else { 2 };
    let expected: Vec<_> = full.iter().map(|row| &row[..fields]).collect();
    assert_eq!(files, expected, "{}", form.name);
    assert_eq!(form.list(&ports(), "LIST_CONTENT", user, &["nobody at all"]), Err(3), "{}", form.name);

    if let Some(asks) = form.asks {
        let found = Ok(("127.0.0.1".to_owned(), port.to_string()));
        for file in [own.as_str(), "other", "not there.txt"] {
            assert_eq!(form.find(&ports(), asks, user, user, file), found, "{}: {file}", form.name);
        }
        assert_eq!(form.find(&ports(), asks, user, "nobody", &own), Err(1), "{}", form.name);
        if matches!(asks, Where::OwnerFile | Where::OwnerFileLocal) {
            // A name that is no file's shows that the peer means something else.
            assert_eq!(form.find(&ports(), asks, user, user, "absent"), Err(1), "{}", form.name);
        }
    }
    let mut status = |operation: &str, fields: &[&str]| form.status(&ports(), operation, user, fields);
    assert_eq!(status("DELETE", &[&own]), 0, "{}", form.name);
    assert_eq!(status("DISCONNECT", &[]), 0, "{}", form.name);
    if let Some(asks) = form.asks {
        assert_eq!(form.find(&ports(), asks, user, user, &own), Err(1), "{}: offline", form.name);
    }
    assert_eq!(form.status(&ports(), "UNREGISTER", user, &[]), 0, "{}", form.name);
}

fn up() -> (Index, Ports) {
    let arguments = Ports::arguments("--gateway-listen");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let index = Index::start_with(&arguments);
    let ports = Ports::read(&index.process, "peers connect to");
    (index, ports)
}

#[test]
fn each_form_of_peer_is_served_whole() {
    let (_index, ports) = up();
    let peers = FORMS.iter().enumerate().map(|(number, form)| {
        let ports = ports.clone();
        thread::spawn(move || {
            everything(form, &format!("user{number}"), 40_000 + number as u16, || ports.clone())
        })
    });
    let peers: Vec<_> = peers.collect();
    peers.into_iter().for_each(|peer| peer.join().unwrap());
}

#[test]
fn each_form_of_peer_is_served_by_any_of_two_gateways() {
    let cluster = Cluster::on_redis();
    let services = [cluster.registry.url(), cluster.catalog.url(), cluster.audit.url()];
    let listen = Ports::arguments("--listen").split_off(2);
    let mut arguments = vec!["--registry", &services[0], "--catalog", &services[1], "--audit", &services[2]];
    arguments.extend(listen.iter().map(String::as_str));
    let gateways: Vec<_> =
        (0..2).map(|_| Service::start_at("127.0.0.1:0", "gateway", &arguments, &[])).collect();
    let ports: Arc<Vec<_>> =
        Arc::new(gateways.iter().map(|gateway| Ports::read(&gateway.process, "lonja.gateway")).collect());
    let peers = FORMS.iter().enumerate().map(|(number, form)| {
        let ports = Arc::clone(&ports);
        thread::spawn(move || {
            let mut turn = 0;
            let turns = move || {
                turn += 1;
                ports[turn % 2].clone()
            };
            everything(form, &format!("user{number}"), 40_000 + number as u16, turns);
        })
    });
    let peers: Vec<_> = peers.collect();
    peers.into_iter().for_each(|peer| peer.join().unwrap());
}

#[test]
fn sixty_four_peers_of_all_forms_at_once() {
    let (index, ports) = up();
    let peers: Vec<_> = (0..64_u16)
        .map(|number| {
            let ports = ports.clone();
            thread::spawn(move || {
                let form = &FORMS[usize::from(number) % FORMS.len()];
                everything(form, &format!("user{number}"), 40_000 + number, || ports.clone());
            })
        })
        .collect();
    peers.into_iter().for_each(|peer| peer.join().unwrap());
    assert_eq!(index.metric("lonja_gateway_connections_open"), 0.0);
}

/// The record of an operation names the dialect, and so do the metrics.
#[test]
fn records_and_metrics_name_the_dialect() {
    let (index, ports) = up();
    let text = FORMS.iter().find(|form| form.name == "text").unwrap();
    let byte = FORMS.iter().find(|form| form.name == "byte").unwrap();
    assert_eq!(text.status(&ports, "REGISTER", "tess", &[]), 0);
    assert_eq!(text.connect(&ports, "tess", 40_001), 0);
    assert_eq!(text.list(&ports, "LIST_USERS", "tess", &[]).unwrap().len(), 1);
    assert_eq!(byte.status(&ports, "REGISTER", "bea", &[]), 0);
    assert_eq!(byte.find(&ports, Where::UserOwner, "bea", "tess", "").unwrap().1, "40001");
    let count = |operation: &str, dialect: &str| {
        index.metric(&format!(
            "lonja_gateway_requests_total{{operation=\"{operation}\",dialect=\"{dialect}\",status=\"0\"}}"
        ))
    };
    assert_eq!(count("REGISTER", "char"), 1.0);
    assert_eq!(count("REGISTER", "byte"), 1.0);
    assert_eq!(count("LIST_USERS", "text"), 1.0);
    assert_eq!(count("GET_FILE", "byte"), 1.0);
    let list = lonja()
        .args(["audit", "list", "--json", "--console", &format!("http://{}", index.console)])
        .output()
        .unwrap();
    let printed = String::from_utf8(list.stdout).unwrap();
    for (operation, dialect) in [("LIST_USERS", "text"), ("GET_FILE", "byte"), ("CONNECT", "char")] {
        let line = printed.lines().find(|line| line.contains(&format!("\"operation\":\"{operation}\"")));
        let line = line.unwrap_or_else(|| panic!("{operation} in {printed}"));
        assert!(line.contains(&format!("\"dialect\":\"{dialect}\"")), "{line}");
    }
}

/// A session that was learned wrongly, because an original peer stood still for seconds, shows it at
/// the next status.
#[test]
fn an_original_peer_that_was_taken_for_another_shows_what_it_is() {
    let (_index, ports) = up();
    let text = FORMS.iter().find(|form| form.name == "text").unwrap();
    assert_eq!(text.status(&ports, "REGISTER", "alice", &[]), 0);
    assert_eq!(text.connect(&ports, "alice", 40_000), 0);
    assert_eq!(ORIGINAL.status(&ports, "PUBLISH", "alice", &["a.txt", "d"]), 0);
    eventually("the note is taken back", || {
        let mut stream = wire::connect(ports.of(Reading::Char));
        stream.write_all(format!("LIST_USERS\0{DATETIME}\0alice\0").as_bytes()).unwrap();
        let mut begin = [0; 5];
        stream.read_exact(&mut begin).unwrap();
        (&begin == b"00001").then_some(())
    });
}

/// An original peer on a machine that stands still looks like a peer that waits for the NUL. It
/// leaves the NUL unread.
#[test]
fn an_original_peer_that_is_slow_is_not_taken_for_another() {
    let (_index, ports) = up();
    for (number, stands_still) in [220, 400, 900].into_iter().enumerate() {
        let user = format!("user{number}");
        assert_eq!(ORIGINAL.status(&ports, "REGISTER", &user, &[]), 0);
        let mut conversation = ORIGINAL.send(&ports, "CONNECT", &user, &["40000"]);
        assert_eq!(conversation.status(), 0);
        thread::sleep(Duration::from_millis(stands_still));
        drop(conversation);
        let users = ORIGINAL.list(&ports, "LIST_USERS", &user, &[]).unwrap();
        assert!(users.contains(&[user.as_str(), "127.0.0.1", "40000"].map(str::to_owned).to_vec()));
    }
}

/// An original peer whose packets take long closes before the NUL arrives: its end of the stream comes
/// first, and the reset for the NUL that nobody reads comes 150 ms later.
#[test]
fn an_original_peer_that_is_far_away_is_not_taken_for_another() {
    let (_index, ports) = up();
    for (number, round_trip) in [180, 280].into_iter().enumerate() {
        let user = format!("user{number}");
        assert_eq!(ORIGINAL.status(&ports, "REGISTER", &user, &[]), 0);
        let mut conversation = ORIGINAL.send(&ports, "CONNECT", &user, &["40000"]);
        assert_eq!(conversation.status(), 0);
        thread::sleep(Duration::from_millis(round_trip));
        conversation.stream.shutdown(Shutdown::Write).unwrap();
        thread::sleep(Duration::from_millis(150));
        drop(conversation);
        let users = ORIGINAL.list(&ports, "LIST_USERS", &user, &[]).unwrap();
        assert_eq!(users.len(), number + 1);
    }
}

/// A peer that keeps each connection until it asks for something else.
#[test]
fn a_peer_that_leaves_its_connections_open_is_learned() {
    let (_index, ports) = up();
    let text = FORMS.iter().find(|form| form.name == "text").unwrap();
    for (user, pause) in [("alice", 0), ("bob", 300), ("carol", 700)] {
        assert_eq!(text.status(&ports, "REGISTER", user, &[]), 0);
        let mut open = text.send(&ports, "CONNECT", user, &["40000"]);
        assert_eq!(open.status(), 0);
        thread::sleep(Duration::from_millis(pause));
        assert!(!text.list(&ports, "LIST_USERS", user, &[]).unwrap().is_empty());
        drop(open);
        assert!(!text.list(&ports, "LIST_USERS", user, &[]).unwrap().is_empty());
    }
}

/// A peer that works before it closes, such as starting the thread that serves its files.
#[test]
fn a_peer_that_closes_late_is_learned() {
    let (_index, ports) = up();
    let text = FORMS.iter().find(|form| form.name == "text").unwrap();
    for (number, works) in [250, 400, 650].into_iter().enumerate() {
        let user = format!("user{number}");
        assert_eq!(text.status(&ports, "REGISTER", &user, &[]), 0);
        let mut conversation = text.send(&ports, "CONNECT", &user, &["40000"]);
        assert_eq!(conversation.status(), 0);
        thread::sleep(Duration::from_millis(works));
        drop(conversation);
        assert_eq!(text.list(&ports, "LIST_USERS", &user, &[]).unwrap().len(), number + 1);
    }
}

/// A tool that reads to the end of the stream is no peer that reads strings.
#[test]
fn a_tool_that_reads_to_the_end_is_not_taken_for_a_peer() {
    let (_index, ports) = up();
    let any = ports.of(Reading::Char);
    // A tool looks like a peer if the machine stands still while it closes, but not each time.
    let is_char = (0..5).any(|number| {
        for request in ["REGISTER\0{}\0userN\0", "CONNECT\0{}\0userN\x0040000\0"] {
            let request = request.replace("{}", DATETIME).replace("userN", &format!("user{number}"));
            assert_eq!(wire::exchange(any, request.as_bytes()), b"0");
        }
        let mut begin = [0; 5];
        let mut stream = wire::connect(any);
        stream.write_all(format!("LIST_USERS\0{DATETIME}\0user{number}\0").as_bytes()).unwrap();
        stream.read_exact(&mut begin).unwrap();
        begin == *format!("0000{}", number + 1).as_bytes()
    });
    assert!(is_char);
}

/// A session that ends takes what was learned with it: the next program of this user may be another.
#[test]
fn what_was_learned_is_of_the_session() {
    let (_index, ports) = up();
    let text = FORMS.iter().find(|form| form.name == "text").unwrap();
    assert_eq!(text.status(&ports, "REGISTER", "alice", &[]), 0);
    for form in [text, &ORIGINAL, text] {
        assert_eq!(form.connect(&ports, "alice", 40_000), 0, "{}", form.name);
        assert_eq!(form.list(&ports, "LIST_USERS", "alice", &[]).unwrap(), [["alice", "127.0.0.1", "40000"]]);
        assert_eq!(form.status(&ports, "DISCONNECT", "alice", &[]), 0, "{}", form.name);
    }
}

/// What cannot be an original peer's request is not answered with an original's list, even if nothing
/// was learned: here the session was opened by another program.
#[test]
fn a_list_that_no_original_peer_asks_for_is_text() {
    let (_index, ports) = up();
    assert_eq!(ORIGINAL.status(&ports, "REGISTER", "alice", &[]), 0);
    assert_eq!(ORIGINAL.connect(&ports, "alice", 40_000), 0);
    let alice = [["alice", "127.0.0.1", "40000"]];
    for name in ["lower case", "line feed", "last", "never"] {
        let form = FORMS.iter().find(|form| form.name == name).unwrap();
        assert_eq!(form.list(&ports, "LIST_USERS", "alice", &[]).unwrap(), alice, "{name}");
        assert_eq!(form.list(&ports, "LIST_CONTENT", "alice", &["alice"]), Ok(vec![]), "{name}");
    }
    assert_eq!(ORIGINAL.list(&ports, "LIST_USERS", "alice", &[]).unwrap(), alice);
}
