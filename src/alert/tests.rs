use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;

fn alert(n: u32) -> Alert {
    Alert {
        id: format!("a{n}"),
        kind: "threshold".into(),
        at: "2026-11-24T04:00:00Z".parse().unwrap(),
        account: Some("support".into()),
        message: "half".into(),
        details: serde_json::json!({ "share": 0.5 }),
    }
}

/// Answers with the given codes in turn, then 200; gives what came.
fn receiver(listener: TcpListener, codes: Vec<u16>) -> mpsc::Receiver<(String, String, String)> {
    let (send, got) = mpsc::channel();
    std::thread::spawn(move || {
        let mut codes = codes.into_iter();
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut length, mut signature, mut timestamp) = (0, String::new(), String::new());
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let lower = line.to_ascii_lowercase();
                if let Some(v) = lower.strip_prefix("content-length:") {
                    length = v.trim().parse().unwrap();
                } else if let Some(v) = lower.strip_prefix("menshen-signature:") {
                    signature = v.trim().to_owned();
                } else if let Some(v) = lower.strip_prefix("menshen-timestamp:") {
                    timestamp = v.trim().to_owned();
                } else if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let code = codes.next().unwrap_or(200);
            write!(
                stream.get_mut(),
                "HTTP/1.1 {code} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            if code == 200
                && send
                    .send((String::from_utf8(body).unwrap(), signature, timestamp))
                    .is_err()
            {
                return;
            }
        }
    });
    got
}

#[test]
fn alerts_are_retried_signed_and_kept_over_a_restart() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sinks = [SinkConfig::Webhook {
        url: format!("http://{address}/x"),
        secret_file: Some(secret),
    }];
    drop(listener);
    {
        // Nobody listens: the alert waits on disk.
        let alerts = Alerts::start(&sinks, &dir.path().join("outbox")).unwrap();
        alerts.raise(&alert(1)).unwrap();
    }
    let got = receiver(TcpListener::bind(address).unwrap(), vec![500, 503]);
    let alerts = Alerts::start(&sinks, &dir.path().join("outbox")).unwrap();
    alerts.raise(&alert(2)).unwrap();
    for n in 1..=2 {
        let (body, signed, timestamp) = got.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        let received: Alert = serde_json::from_str(&body).unwrap();
        assert_eq!(received, alert(n));
        assert_eq!(signed, signature(b"s3cret", &timestamp, &body).unwrap());
    }
}
