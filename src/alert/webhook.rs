//! HTTP POST of an alert as JSON. Headers: `Menshen-Delivery` (the alert's id), `Menshen-Timestamp` (seconds), and
//! `Menshen-Signature: sha256=<hex>`, the HMAC of `timestamp.body` under the shared secret.

use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::AlertError;
use super::outbox::Deliver;

/// The signature that a receiver recomputes; `None` where the key can't be used.
#[must_use]
pub fn signature(secret: &[u8], timestamp: &str, body: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    Some(format!("sha256={}", hex::encode(mac.finalize().into_bytes())))
}

pub fn deliverer(url: &str, secret_file: Option<&Path>) -> Result<Deliver, AlertError> {
    let secret = match secret_file {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| AlertError(format!("webhook secret {}: {e}", path.display())))?;
            Some(text.trim().as_bytes().to_vec())
        }
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(true)
        .build()
        .into();
    let url = url.to_owned();
    Ok(Box::new(move |alert, json| {
        let timestamp = alert.at.as_second().to_string();
        let mut request = agent
            .post(&url)
            .header("Content-Type", "application/json")
            .header("Menshen-Delivery", &alert.id)
            .header("Menshen-Timestamp", &timestamp);
        if let Some(secret) = &secret {
            let signed = signature(secret, &timestamp, json).ok_or("the webhook secret can't be used")?;
            request = request.header("Menshen-Signature", signed);
        }
        request.send(json).map(|_| ()).map_err(|e| e.to_string())
    }))
}
