//! What decides who may come in, and how: all that can be taken over from a changed file while clients are connected.

use std::path::Path;

use ipnet::IpNet;

use super::{access, tls};
use crate::policy::reader::{Reader, Section};

/// TLS, access rules and balancers.
#[derive(Debug, Clone, Default)]
pub struct Channel {
    /// `[tls]`. `None`: mode `off`.
    pub tls: Option<tls::ClientTls>,
    /// `[[access]]`, in order.
    pub access: Vec<access::Rule>,
    /// `proxy_protocol`: networks of the balancers whose connections begin with a PROXY header of version 2. *Default: none*
    pub balancers: Vec<IpNet>,
}

impl Channel {
    /// In one line, for `menshen check`.
    #[must_use]
    pub fn summary(&self) -> String {
        let tls = self
            .tls
            .as_ref()
            .map_or_else(|| "off".to_owned(), tls::ClientTls::summary);
        let access = match self.access.len() {
            0 => "everybody may connect".to_owned(),
            1 => "1 access rule".to_owned(),
            n => format!("{n} access rules"),
        };
        let mut summary = format!("clients: TLS {tls}; {access}");
        if !self.balancers.is_empty() {
            let list: Vec<String> = self.balancers.iter().map(ToString::to_string).collect();
            summary.push_str(&format!("; PROXY headers from {}", list.join(", ")));
        }
        summary
    }
}

pub(super) fn read<'t>(reader: &mut Reader<'t>, root: &Section<'t>, base: &Path) -> Channel {
    let tls = tls::read(reader, root, base);
    let access = access::read(reader, root, tls.as_ref());
    Channel {
        tls,
        access,
        balancers: networks(reader, root, "proxy_protocol"),
    }
}

/// Networks (`10.0.0.0/8`) and single addresses.
pub(super) fn networks<'t>(reader: &mut Reader<'t>, section: &Section<'t>, key: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (text, span) in reader.strings(section, key) {
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network),
            Err(_) => reader.error(&span, format!("`{text}` is not a network such as 10.0.0.0/8"), None),
        }
    }
    networks
}
