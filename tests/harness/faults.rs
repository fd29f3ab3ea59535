//! A proxy that does what networks and broken peers do: it splits, merges, delays, truncates, corrupts and inserts, at a byte of one
//! direction of a connection. Connections are told apart by the `application_name` of their StartupMessage; those that nobody has armed
//! a fault for pass as they are.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// From whoever connected.
    Forth,
    /// From whom the proxy connects to.
    Back,
}

/// What happens to the bytes of one way. Places count its bytes from the beginning of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing; what passes is kept.
    Record,
    /// A pause before this byte.
    Split(usize),
    /// Every byte comes on its own.
    Crumbs,
    /// What comes within a while goes out at once.
    Merge(Duration),
    /// Every piece is late.
    Delay(Duration),
    /// The connection ends before this byte; by a reset where it says so.
    Cut(usize, bool),
    /// This byte is changed by exclusive or.
    Corrupt(usize, u8),
    /// More bytes stand before this one.
    Insert(usize, Vec<u8>),
}

type Armed = Arc<Mutex<HashMap<String, (Way, Fault)>>>;
type Records = Arc<Mutex<HashMap<String, [Vec<u8>; 2]>>>;

pub struct Faults {
    pub port: u16,
    armed: Armed,
    records: Records,
}

impl Faults {
    /// In front of a port of this machine.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let faults = Self {
            port: listener.local_addr().unwrap().port(),
            armed: Arc::default(),
            records: Arc::default(),
        };
        let (armed, records) = (Arc::clone(&faults.armed), Arc::clone(&faults.records));
        // It goes with the process: nobody counts on its end.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (armed, records) = (Arc::clone(&armed), Arc::clone(&records));
                std::thread::spawn(move || connection(client, target, &armed, &records));
            }
        });
        faults
    }

    /// For the next connection with this `application_name`.
    pub fn arm(&self, name: &str, way: Way, fault: Fault) {
        self.armed.lock().unwrap().insert(name.to_owned(), (way, fault));
    }

    /// What has passed on a connection that was recorded.
    pub fn recorded(&self, name: &str, way: Way) -> Vec<u8> {
        self.records.lock().unwrap()[name][way as usize].clone()
    }
}

fn connection(mut client: TcpStream, target: u16, armed: &Armed, records: &Records) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else {
        return;
    };
    // The StartupMessage, or whatever comes in its place.
    let mut first = vec![0_u8; 4];
    if client.read_exact(&mut first).is_err() {
        return;
    }
    let length = usize::try_from(i32::from_be_bytes(first[..4].try_into().unwrap())).unwrap_or(4);
    first.resize(length.clamp(4, 20_000), 0);
    if client.read_exact(&mut first[4..]).is_err() {
        return;
    }
    let name = String::from_utf8_lossy(&first)
        .split('\0')
        .skip_while(|p| !p.ends_with("application_name"))
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let plan = armed.lock().unwrap().remove(&name);
    let fault = |way: Way| match &plan {
        Some((Way::Forth | Way::Back, Fault::Record)) => Some(Fault::Record),
        Some((of, fault)) if *of == way => Some(fault.clone()),
        Some(_) | None => None,
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let pumps = [
        (Way::Forth, client.try_clone(), server.try_clone(), first),
        (Way::Back, Ok(server), Ok(client), Vec::new()),
    ];
    for (way, from, to, begun) in pumps {
        let (Ok(from), Ok(to)) = (from, to) else { return };
        let (fault, name, records) = (fault(way), name.clone(), Arc::clone(records));
        std::thread::spawn(move || {
            let mut pump = Pump { to, at: 0, fault };
            pump.run(from, begun, |bytes| {
                records.lock().unwrap().entry(name.clone()).or_default()[way as usize].extend(bytes);
            });
        });
    }
}

struct Pump {
    to: TcpStream,
    at: usize,
    fault: Option<Fault>,
}

impl Pump {
    fn run(&mut self, mut from: TcpStream, begun: Vec<u8>, mut record: impl FnMut(&[u8])) {
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut bytes = begun;
        loop {
            if let Some(Fault::Merge(time)) = &self.fault {
                let time = *time;
                std::thread::sleep(time);
                from.set_nonblocking(true).unwrap();
                while let Ok(n) = from.read(&mut buffer) {
                    if n == 0 {
                        break;
                    }
                    bytes.extend(&buffer[..n]);
                }
                from.set_nonblocking(false).unwrap();
            }
            if self.fault == Some(Fault::Record) {
                record(&bytes);
            }
            match self.pass(&bytes) {
                Ok(true) => {}
                // Cut: both ends hear of it.
                Ok(false) => {
                    let _gone = from.shutdown(Shutdown::Both);
                    return;
                }
                Err(_) => {
                    let _gone = from.shutdown(Shutdown::Both);
                    let _gone = self.to.shutdown(Shutdown::Both);
                    return;
                }
            }
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    // A peer that half-closes waits for the rest of the answer.
                    let _gone = self.to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(n) => bytes = buffer[..n].to_vec(),
            }
        }
    }

    /// False: the connection has been cut.
    fn pass(&mut self, bytes: &[u8]) -> std::io::Result<bool> {
        let begin = self.at;
        self.at += bytes.len();
        // Where a place stands in these bytes.
        let here = |place: usize| (begin..begin + bytes.len()).contains(&place).then(|| place - begin);
        match &self.fault {
            None | Some(Fault::Record | Fault::Merge(_)) => self.to.write_all(bytes)?,
            Some(Fault::Split(place)) => match here(*place) {
                None => self.to.write_all(bytes)?,
                Some(place) => {
                    self.to.write_all(&bytes[..place])?;
                    std::thread::sleep(Duration::from_millis(2));
                    self.to.write_all(&bytes[place..])?;
                }
            },
            Some(Fault::Crumbs) => {
                for byte in bytes {
                    self.to.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            Some(Fault::Delay(time)) => {
                std::thread::sleep(*time);
                self.to.write_all(bytes)?;
            }
            Some(Fault::Cut(place, reset)) => match here(*place) {
                None => self.to.write_all(bytes)?,
                Some(place) => {
                    self.to.write_all(&bytes[..place])?;
                    if *reset {
                        socket2::SockRef::from(&self.to).set_linger(Some(Duration::ZERO))?;
                    }
                    let _gone = self.to.shutdown(Shutdown::Both);
                    return Ok(false);
                }
            },
            Some(Fault::Corrupt(place, with)) => {
                let mut bytes = bytes.to_vec();
                if let Some(place) = here(*place) {
                    bytes[place] ^= with;
                }
                self.to.write_all(&bytes)?;
            }
            Some(Fault::Insert(place, more)) => match here(*place) {
                None => self.to.write_all(bytes)?,
                Some(place) => self.to.write_all(&[&bytes[..place], more, &bytes[place..]].concat())?,
            },
        }
        Ok(true)
    }
}

/// Where messages begin in what a server has sent, and where the last one ends.
pub fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut all = vec![0];
    while let Some(head) = bytes.get(at + 1..at + 5) {
        at += 1 + usize::try_from(i32::from_be_bytes(head.try_into().unwrap())).unwrap();
        all.push(at);
    }
    all
}
