//! A receiver of webhooks that can fail on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

pub struct Webhook {
    pub url: String,
    pub bodies: Arc<Mutex<Vec<String>>>,
}

impl Webhook {
    /// Answers the first `failures` requests with 500.
    pub fn start(mut failures: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/menshen", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bodies);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                        break;
                    }
                    if let Some(v) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = v.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                if stream.read_exact(&mut body).is_err() {
                    continue;
                }
                let code = if failures > 0 { 500 } else { 200 };
                failures = failures.saturating_sub(1);
                let _gone = write!(
                    stream.get_mut(),
                    "HTTP/1.1 {code} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                if code == 200 {
                    kept.lock().unwrap().push(String::from_utf8(body).unwrap());
                }
            }
        });
        Self { url, bodies }
    }
}
