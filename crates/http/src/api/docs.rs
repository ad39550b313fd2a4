//! The description of the REST API: the OpenAPI document `openapi.json`, which is written by hand and held to the
//! routes and the answers by tests, and the page that shows it. The page is rendered here from the same
//! document; nothing is loaded from elsewhere.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::internal;
use crate::state::Parts;
use crate::web::pages::View;

const DOCUMENT: &str = include_str!("../openapi.json");

/// Stands for the version of the running server in [`DOCUMENT`].
const VERSION: &str = "\"@VERSION@\"";

/// `GET /api/v1/openapi.json`
pub(crate) async fn document(State(parts): State<Arc<Parts>>) -> Response {
    let version = Value::from(parts.version.version.as_str()).to_string();
    let text = DOCUMENT.replacen(VERSION, &version, 1);
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response()
}

/// `GET /api/v1/docs`
pub(crate) async fn page(view: View) -> Response {
    let Some(shown) = serde_json::from_str(DOCUMENT).ok().and_then(|document| Shown::of(&document)) else {
        return internal();
    };
    view.render(
        "api.html",
        context! { title => "REST API", active => "", api => minijinja::Value::from(Serde(shown)) },
    )
}

/// What may happen to any request, and is told once.
const EVERYWHERE: [&str; 3] = ["401", "403", "429"];

/// The document as the page shows it: references followed, types as words.
#[derive(Debug, Serialize)]
struct Shown {
    intro: String,
    everywhere: Vec<Answer>,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

#[derive(Debug, Serialize)]
struct Group {
    name: String,
    about: String,
    operations: Vec<Operation>,
}

#[derive(Debug, Serialize)]
struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    about: String,
    parameters: Vec<Row>,
    body: Option<String>,
    answers: Vec<Answer>,
    sample: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    status: String,
    about: String,
    schema: String,
}

/// A parameter or a field.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    kind: String,
    required: bool,
    about: String,
}

#[derive(Debug, Serialize)]
struct Schema {
    name: String,
    kind: String,
    about: String,
    fields: Vec<Row>,
}

impl Shown {
    fn of(document: &Value) -> Option<Self> {
        let mut groups: Vec<Group> = array(&document["tags"])
            .map(|tag| Group {
                name: text(&tag["name"]),
                about: text(&tag["description"]),
                operations: Vec::new(),
            })
            .collect();
        for (path, item) in document["paths"].as_object()? {
            for (method, operation) in item.as_object()?.iter().filter(|(key, _)| *key != "parameters") {
                let tag = text(&operation["tags"][0]);
                let group = groups.iter_mut().find(|group| group.name == tag)?;
                group.operations.push(Operation::of(document, path, item, method, operation));
            }
        }
        let schemas = document["components"]["schemas"].as_object()?;
        let schemas = schemas.iter().map(|(name, schema)| Schema {
            name: name.clone(),
            kind: kind(schema),
            about: text(&schema["description"]),
            fields: fields(schema),
        });
        let everywhere = &document["paths"]["/api/v1/version"]["get"]["responses"];
        let everywhere = answers(document, everywhere, |status| EVERYWHERE.contains(&status));
        Some(Self {
            intro: text(&document["info"]["description"]),
            everywhere,
            groups,
            schemas: schemas.collect(),
        })
    }
}

impl Operation {
    fn of(document: &Value, path: &str, item: &Value, method: &str, operation: &Value) -> Self {
        let parameters = array(&item["parameters"]).chain(array(&operation["parameters"])).map(|one| Row {
            name: text(&one["name"]),
            kind: format!("{} {}", text(&one["in"]), kind(&one["schema"])),
            required: one["required"] == true,
            about: text(&one["description"]),
        });
        let body = &operation["requestBody"]["content"]["application/json"];
        Self {
            id: text(&operation["operationId"]),
            method: method.to_uppercase(),
            path: path.to_owned(),
            summary: text(&operation["summary"]),
            about: text(&operation["description"]),
            parameters: parameters.collect(),
            body: body.is_object().then(|| kind(&body["schema"])),
            answers: answers(document, &operation["responses"], |status| !EVERYWHERE.contains(&status)),
            sample: text(&operation["x-codeSamples"][0]["source"]),
        }
    }
}

fn answers(document: &Value, answers: &Value, wanted: impl Fn(&str) -> bool) -> Vec<Answer> {
    let none = Map::new();
    let wanted = answers.as_object().unwrap_or(&none).iter().filter(|(status, _)| wanted(status));
    let answer = |(status, answer): (&String, &Value)| {
        let answer = follow(document, answer);
        let schema = answer["content"].as_object().and_then(|content| content.values().next());
        Answer {
            status: status.clone(),
            about: text(&answer["description"]),
            schema: schema.map(|content| kind(&content["schema"])).unwrap_or_default(),
        }
    };
    wanted.map(answer).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn follow<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| document.pointer(target.strip_prefix('#')?));
    target.unwrap_or(value)
}

/// A type in words: `integer`, `list of User`, `text or null`.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or_default().to_owned();
    }
    if let Some(of) =
        schema["anyOf"].as_array().or(schema["allOf"].as_array()).filter(|_| !schema["type"].is_string())
    {
        return of.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let word = |name: &str| match name {
        "array" => format!("list of {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", kind(&schema["additionalProperties"]))
        }
        "string" => "text".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => word(name),
        names => array(names).filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(" or "),
    }
}

fn fields(schema: &Value) -> Vec<Row> {
    let required = |name: &str| array(&schema["required"]).any(|one| one == name);
    let none = Map::new();
    let fields = schema["properties"].as_object().unwrap_or(&none).iter().map(|(name, field)| {
        let values: Vec<_> = array(&field["enum"]).map(Value::to_string).collect();
        let values =
            if values.is_empty() { String::new() } else { format!(" One of {}.", values.join(", ")) };
        Row {
            name: name.clone(),
            kind: kind(field),
            required: required(name),
            about: text(&field["description"]) + &values,
        }
    });
    fields.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes;

    fn parsed() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let mut served = BTreeSet::new();
        for route in routes::table().iter().filter(|route| route.path.starts_with("/api/")) {
            for method in route.methods.split(", ") {
                served.insert(format!("{method} {}", route.path));
            }
        }
        let document = parsed();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                described.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        assert_eq!(described, served);
    }

    #[test]
    fn every_operation_says_what_may_go_wrong_and_shows_a_request() {
        let document = parsed();
        assert!(DOCUMENT.contains(VERSION));
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
            {
                let name = format!("{method} {path}");
                let statuses: BTreeSet<_> =
                    operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
                for status in EVERYWHERE {
                    assert!(statuses.contains(status), "{name}: {status}");
                }
                assert_eq!(
                    statuses.contains("413"),
                    operation["requestBody"].is_object(),
                    "{name}: a body can be too long"
                );
                assert!(statuses.iter().any(|status| status.starts_with('2')), "{name}");
                assert!(ids.insert(text(&operation["operationId"])), "{name}: the id is taken");
                assert!(text(&operation["x-codeSamples"][0]["source"]).contains("/api/v1/"), "{name}");
                for answer in operation["responses"].as_object().unwrap().values() {
                    let answer = follow(&document, answer);
                    assert!(answer["description"].is_string() && answer["content"].is_object(), "{name}");
                }
            }
        }
    }

    #[test]
    fn references_lead_somewhere() {
        fn walk(document: &Value, value: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        assert!(document.pointer(&target[1..]).is_some(), "{target}");
                    }
                    map.values().for_each(|value| walk(document, value));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = parsed();
        walk(&document, &document);
        for link in
            document.pointer("/paths/~1api~1v1~1user/post/responses/200/links").unwrap().as_object().unwrap()
        {
            assert!(DOCUMENT.contains(&format!("\"operationId\": {}", link.1["operationId"])));
        }
    }

    #[test]
    fn the_page_shows_every_operation() {
        let shown = Shown::of(&parsed()).unwrap();
        let operations: Vec<_> = shown.groups.iter().flat_map(|group| &group.operations).collect();
        assert_eq!(operations.len(), 18);
        let everywhere: Vec<_> = shown.everywhere.iter().map(|answer| &*answer.status).collect();
        assert_eq!(everywhere, EVERYWHERE);
        let add = operations.iter().find(|one| one.id == "addUser").unwrap();
        assert_eq!(add.body.as_deref(), Some("NewUser"));
        assert_eq!((&*add.answers[0].status, &*add.answers[0].schema), ("200", "User"));
        let user = shown.schemas.iter().find(|schema| schema.name == "NewUser").unwrap();
        let field = |name: &str| user.fields.iter().find(|field| field.name == name).unwrap();
        assert_eq!(field("public_keys").kind, "list of text or null");
        assert_eq!(field("permissions").kind, "object of list of Permission");
        assert!(field("username").required && !field("uid").required);
    }
}
