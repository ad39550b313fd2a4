//! What the next page says about what was just done: a cookie that lives for one page and says only which of the
//! sentences below is meant, about whom or how many.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use minijinja::{Value, context};

use crate::web::forms::{Form, encode};
use crate::web::{pages, text};

const COOKIE: &str = "tidegate_notice";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Added,
    Updated,
    KeysGone,
    Deleted,
    Enabled,
    Disabled,
    Scanning,
}

const KEYS: [(Done, &str); 7] = [
    (Done::Added, "added"),
    (Done::Updated, "updated"),
    (Done::KeysGone, "keys-gone"),
    (Done::Deleted, "deleted"),
    (Done::Enabled, "enabled"),
    (Done::Disabled, "disabled"),
    (Done::Scanning, "scanning"),
];

/// Sends the visitor to `location`, where `done` will be said about `whom`: a name, or a number of users.
pub(crate) fn tell(location: &str, done: Done, whom: &str) -> Response {
    let mut response = pages::see_other(location);
    let key = KEYS.iter().find(|(one, _)| *one == done).map_or("", |(_, key)| key);
    let cookie = format!("{COOKIE}={key}={}; Path=/web; Max-Age=30; HttpOnly; SameSite=Strict", encode(whom));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// What there is to say, for the context of a page: `kind` and `text`.
pub(crate) fn heard(headers: &HeaderMap) -> Option<Value> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let said = cookies
        .flat_map(|cookies| cookies.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let form = Form::parse(said.as_bytes()).ok()?;
    let (key, whom) = form.iter().next()?;
    let (done, _) = KEYS.iter().find(|(_, known)| *known == key)?;
    // A name of 255 characters is the longest there is.
    let whom: String = text::plain(whom).chars().take(300).collect();
    let (kind, text) = match done {
        Done::Added => ("ok", format!("User {whom} was added.")),
        Done::Updated => ("ok", format!("User {whom} was saved.")),
        Done::KeysGone => (
            "warn",
            format!("User {whom} was saved, and has no public key any more: only the password is left."),
        ),
        Done::Deleted => ("ok", format!("Deleted: {whom}. The files are still there.")),
        Done::Enabled => ("ok", format!("Enabled: {whom}.")),
        Done::Disabled => ("ok", format!("Disabled: {whom}. Open sessions have ended.")),
        Done::Scanning => {
            ("ok", format!("Quota scan started: {whom}. Reload the page later to see what it found."))
        }
    };
    Some(context! { kind, text })
}

/// Forgets it, once said.
pub(crate) fn said(mut response: Response) -> Response {
    let cookie = format!("{COOKIE}=; Path=/web; Max-Age=0; HttpOnly; SameSite=Strict");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_and_only_what_is_known() {
        let response = tell("/web/users", Done::Added, "a;b=<\u{202e}>");
        assert_eq!(response.headers()[header::LOCATION], "/web/users");
        let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap();
        let (cookie, _) = cookie.split_once(';').unwrap();
        let hear = |cookie: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
            heard(&headers).map(|notice| notice.get_attr("text").unwrap().to_string())
        };
        assert_eq!(hear(&format!("x=y; {cookie}")), Some("User a;b=<U+202E> was added.".to_owned()));
        assert_eq!(hear("tidegate_notice=pwned=x"), None);
        assert_eq!(hear("tidegate_notice=added=%ff"), None);
        assert_eq!(hear("tidegate_noticed=added=x"), None);
        assert_eq!(heard(&HeaderMap::new()), None);
    }
}
