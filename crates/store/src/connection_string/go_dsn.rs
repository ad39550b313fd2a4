//! The data source names of Go's MySQL driver:
//!
//! ```text
//! [username[:password]@][protocol[(address)]]/database[?key=value{&key=value}]
//! ```
//!
//! The last `/` begins the name of the database, the last `@` before it ends the password, and the first `:`
//! begins it; so a password may contain `@`, `:` and `/`. Values of parameters are percent-encoded.

/// What a data source name says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dsn {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) address: Address,
    pub(crate) database: String,
    pub(crate) parameters: Vec<(String, String)>,
}

/// Where the server listens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host, without brackets, and port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(String),
}

const DEFAULT_PORT: u16 = 3306;

/// Takes a data source name apart.
pub(crate) fn parse(text: &str) -> Result<Dsn, String> {
    let Some((server, database)) = text.rsplit_once('/') else {
        return Err("there is no \"/\" before the name of the database".to_owned());
    };
    let (user, network) = server.rsplit_once('@').unwrap_or(("", server));
    let (username, password) = user.split_once(':').unwrap_or((user, ""));
    let (database, query) = database.split_once('?').unwrap_or((database, ""));
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err("a parameter has no value".to_owned());
        };
        let value =
            percent_decoded(value).ok_or_else(|| "a parameter is not percent-encoded text".to_owned())?;
        parameters.push((key.to_owned(), value));
    }
    Ok(Dsn {
        username: username.to_owned(),
        password: password.to_owned(),
        address: address(network)?,
        database: database.to_owned(),
        parameters,
    })
}

fn address(network: &str) -> Result<Address, String> {
    let (protocol, address) = match network.split_once('(') {
        Some((protocol, rest)) => {
            let address = rest.strip_suffix(')');
            (protocol, address.ok_or("the address has no closing parenthesis at its end")?)
        }
        None => (network, ""),
    };
    match protocol {
        "" | "tcp" => tcp(address),
        "unix" if address.is_empty() => Ok(Address::Unix("/tmp/mysql.sock".to_owned())),
        "unix" => Ok(Address::Unix(address.to_owned())),
        // Not repeated: it may be the end of a password.
        _ => Err("the protocol is neither tcp nor unix".to_owned()),
    }
}

fn tcp(address: &str) -> Result<Address, String> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the address has no closing bracket")?;
            (host, port)
        }
        // More than one colon without brackets: an IPv6 address alone.
        None if address.matches(':').count() > 1 => (address, ""),
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        None => return Err("there is something between the host and the port".to_owned()),
        Some(number) => number.parse().map_err(|_| "the port is no number from 0 to 65535".to_owned())?,
    };
    Ok(Address::Tcp(host.to_owned(), port))
}

/// As in a form: `+` is a space.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp_of(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), port)
    }

    #[test]
    fn forms() {
        for (text, username, password, address, database) in [
            ("/", "", "", tcp_of("127.0.0.1", 3306), ""),
            ("u:p@tcp(db:3307)/d", "u", "p", tcp_of("db", 3307), "d"),
            ("u:p@tcp([db]:3307)/d", "u", "p", tcp_of("db", 3307), "d"),
            ("u:p@tcp([2001:db8::1]:3307)/d", "u", "p", tcp_of("2001:db8::1", 3307), "d"),
            ("u:p@tcp(2001:db8::1)/d", "u", "p", tcp_of("2001:db8::1", 3306), "d"),
            ("u:p@(db)/d", "u", "p", tcp_of("db", 3306), "d"),
            ("u:p@tcp/d?", "u", "p", tcp_of("127.0.0.1", 3306), "d"),
            ("u@unix(/run/mysqld/m.sock)/d", "u", "", Address::Unix("/run/mysqld/m.sock".into()), "d"),
            ("u:a@b:c/d(e@tcp(db)/x", "u", "a@b:c/d(e", tcp_of("db", 3306), "x"),
        ] {
            let dsn = parse(text).unwrap();
            let got = (dsn.username.as_str(), dsn.password.as_str(), dsn.address, dsn.database.as_str());
            assert_eq!(got, (username, password, address, database), "{text}");
        }
        let dsn = parse("/d?charset=utf8&tls=skip-verify&loc=Europe%2FRome&x=a+b").unwrap();
        let parameters: Vec<_> = dsn.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            parameters,
            [("charset", "utf8"), ("tls", "skip-verify"), ("loc", "Europe/Rome"), ("x", "a b")]
        );
        for text in [
            "u:secret@tcp(h)",
            "u:secret@tcp(h/d",
            "u:secret@tcp(h:x)/d",
            "u:secret@tcp([h)/d",
            "u:secret@tcp([h]x)/d",
            "u:secret@udp(h)/d",
            "u:secret/d",
            "u:secret@tcp(h)/d?tls",
            "u:secret@tcp(h)/d?tls=%zz",
            "u:secret@tcp(h)/d?tls=%f",
            "u:secret@tcp(h)/d?tls=%ff",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_password_is_read(password in any::<String>(), port in any::<u16>()) {
            let dsn = parse(&format!("u:{password}@tcp([db]:{port})/d")).unwrap();
            prop_assert_eq!(dsn.password, password);
            prop_assert_eq!(dsn.address, tcp_of("db", port));
        }

        #[test]
        fn nothing_is_invented(text in "[a:@()/?=&%0\\[\\]tcpunix]{0,40}") {
            if let Ok(dsn) = parse(&text) {
                let parameters: usize = dsn.parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert!(
                    dsn.username.len() + dsn.password.len() + dsn.database.len() + parameters <= text.len()
                );
            }
        }
    }
}
