//! The service login: it reads pg_catalog, and what kind of server it is on.

use tokio_postgres::config::{SslMode as Mode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::asked::{Asked, AskedInside};
use super::{NOT_AUTHORIZED, Place, Role, Upstreams, socket};
use crate::config::SslMode;
use crate::server::stream::Stream;

/// Whether it is a standby; whether transactions are read-only by default for others than the service login, too.
const ROLE_QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery(), s.setting OPERATOR(pg_catalog.=) 'on' \
    AND s.source NOT IN ('user', 'database user', 'client', 'session') \
    FROM pg_catalog.pg_settings s WHERE s.name OPERATOR(pg_catalog.=) 'default_transaction_read_only'";

/// Definitions of views are read under a lock on what they read. Those that are locked exclusively are left out of the question; a lock that is
/// taken at that moment must not be waited for for ever. Where a catalog has hundreds of tables PostgreSQL would compile the question: 0.3 s of 0.4.
const SETTINGS: &str = "-c lock_timeout=5s -c jit=off";

impl Upstreams {
    /// A connection of the service login.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub async fn service(&self, place: &Place, database: &str) -> Result<tokio_postgres::Client, String> {
        self.in_time(self.log_in(place, database))
            .await
            .map_err(|e| format!("the service login \"{}\" cannot connect: {e}", self.config.service_user))
    }

    pub(super) async fn ask_role(&self, place: &Place) -> Result<Role, String> {
        let client = self.service(place, &self.config.service_database).await?;
        let asked = client.query_one(ROLE_QUERY, &[]).await;
        let role = asked.and_then(|row| {
            Ok(Role {
                standby: row.try_get(0)?,
                read_only: row.try_get(1)?,
            })
        });
        role.map_err(|e| words(&e))
    }

    async fn log_in(&self, place: &Place, database: &str) -> Result<tokio_postgres::Client, String> {
        if self.config.sslmode == SslMode::Allow && matches!(place, Place::Tcp(..)) {
            return match self.log_in_by(place, database, false).await {
                Err((_, Some(sqlstate))) if sqlstate == NOT_AUTHORIZED => self.log_in_by(place, database, true).await,
                done => done,
            }
            .map_err(|(why, _)| why);
        }
        self.log_in_by(place, database, true).await.map_err(|(why, _)| why)
    }

    /// What fails has a sentence, and the server's SQLSTATE where it said so itself.
    async fn log_in_by(
        &self,
        place: &Place,
        database: &str,
        encrypted: bool,
    ) -> Result<tokio_postgres::Client, (String, Option<String>)> {
        let config = &self.config;
        let failed = |e: tokio_postgres::Error| (words(&e), e.code().map(|c| c.code().to_owned()));
        let plain = |why: String| (why, None);
        let stream = socket::open(place, config).await.map_err(plain)?;
        let mut options = tokio_postgres::Config::new();
        options
            .user(&config.service_user)
            .dbname(database)
            .application_name("menshen")
            .options(SETTINGS);
        if let Some(file) = &config.service_password_file {
            let password = std::fs::read_to_string(file)
                .map_err(|e| plain(format!("service password {}: {e}", file.display())))?;
            options.password(password.trim());
        }
        let (Some(tls), Place::Tcp(name, _), true) = (&self.tls, place, encrypted) else {
            options.ssl_mode(Mode::Disable);
            let stream = Asked::new(stream, &config.require_auth, false);
            let (client, connection) = options
                .connect_raw(stream, tokio_postgres::NoTls)
                .await
                .map_err(failed)?;
            tokio::spawn(connection);
            return Ok(client);
        };
        // tokio-postgres asks for TLS itself: so it binds SCRAM to the channel.
        options.ssl_mode(match config.sslmode {
            SslMode::Disable => Mode::Disable,
            SslMode::Allow | SslMode::Prefer => Mode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Mode::Require,
        });
        if config.direct_tls {
            options.ssl_negotiation(SslNegotiation::Direct);
        }
        let mut maker = MakeRustlsConnect::new((**tls).clone());
        let connect = <MakeRustlsConnect as MakeTlsConnect<Asked<Stream>>>::make_tls_connect(&mut maker, name)
            .map_err(|e| plain(e.to_string()))?;
        let connect = AskedInside(connect, config.require_auth.clone());
        let stream = if config.direct_tls {
            Asked::outside(stream)
        } else {
            Asked::new(stream, &config.require_auth, true)
        };
        let (client, connection) = options.connect_raw(stream, connect).await.map_err(failed)?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// The server's own words where it has some, else the whole chain of causes.
pub(in crate::server) fn words(e: &tokio_postgres::Error) -> String {
    use std::error::Error;
    if let Some(said) = e.as_db_error() {
        return said.message().to_owned();
    }
    let mut all = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        all = format!("{all}: {inner}");
        cause = inner.source();
    }
    all
}
