//! `tidegate ctl status` and `tidegate ctl version`.

use serde_json::json;

use super::client::Client;
use super::table::clean;
use super::{Failure, Output, say, table};

/// What works and how much is going on. Fails if the data provider does not work.
pub(super) async fn status(client: &Client, output: Output) -> Result<(), Failure> {
    let version = client.get("version", &[]).await?;
    let provider = match client.get("providerstatus", &[]).await {
        Ok(answer) => Ok(answer["message"].as_str().unwrap_or_default().to_owned()),
        Err(Failure::Refused(why)) => Err(why),
        Err(other) => return Err(other),
    };
    let connections = client.get("connection", &[]).await?;
    let connections = connections.as_array().map(Vec::as_slice).unwrap_or_default();
    let transfers: usize =
        connections.iter().map(|one| one["active_transfers"].as_array().map_or(0, Vec::len)).sum();
    let scans = client.get("quota_scan", &[]).await?;
    let scans = scans.as_array().map_or(0, Vec::len);
    let version = clean(version["version"].as_str().unwrap_or_default());
    match output {
        Output::Json => say(&table::json(&json!({
            "version": version,
            "provider": provider.is_ok(),
            "connections": connections.len(),
            "transfers": transfers,
            "quota_scans": scans,
        })))?,
        Output::Table | Output::Csv => say(&format!(
            "server       Tidegate {version}\nprovider     {}\nconnections  {}\ntransfers    {transfers}\nscans        {scans}\n",
            provider.as_ref().map_or("does not work", |_| "works"),
            connections.len(),
        ))?,
    }
    provider.map(|_| ()).map_err(|why| Failure::Refused(format!("the data provider does not work: {why}")))
}

/// Version, commit and build date.
pub(super) async fn version(client: &Client, output: Output) -> Result<(), Failure> {
    let version = client.get("version", &[]).await?;
    if output == Output::Json {
        return say(&table::json(&version));
    }
    let text = |key: &str| clean(version[key].as_str().unwrap_or_default());
    let parts = [text("version"), text("commit_hash"), text("build_date")];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    say(&format!("{}\n", parts.join(" ")))
}
