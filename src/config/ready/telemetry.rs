//! Where spans go: the file, completed by the standard variables of OpenTelemetry.

use http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::{Check, at};
use crate::config::{Otlp, OtlpProtocol, Telemetry, document::Place, settings};

/// The endpoint of the file wins over that of the environment; `OTEL_SDK_DISABLED` turns all of it off.
pub(super) fn telemetry(check: &mut Check<'_>, written: &settings::Telemetry) -> Telemetry {
    let section = at(&["telemetry", "otlp"]);
    let file = written.otlp.as_ref();
    let protocol = file.and_then(|otlp| otlp.protocol).or_else(|| protocol(check)).unwrap_or_default();
    let endpoint = match file.and_then(|otlp| otlp.endpoint.as_deref()) {
        Some(url) => Some(file_endpoint(check, &section.key("endpoint"), url)),
        None => variable_endpoint(check, protocol),
    };
    let headers = headers(check);
    let resource = resource(check);
    if check.variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Telemetry::default();
    }
    if file.is_some() && endpoint.is_none() {
        check.document.report(&section.key("endpoint"), "is required, here or as OTEL_EXPORTER_OTLP_ENDPOINT");
    }
    Telemetry { otlp: endpoint.map(|endpoint| Otlp { endpoint, protocol, headers, resource }) }
}

fn protocol(check: &mut Check<'_>) -> Option<OtlpProtocol> {
    let (name, value) = first(check, ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"])?;
    match value.as_str() {
        "http/protobuf" => return Some(OtlpProtocol::Http),
        "grpc" => return Some(OtlpProtocol::Grpc),
        "http/json" => check.document.report_variable(name, "http/json is not available in this version"),
        _ => check.document.report_variable(name, "expected http/protobuf or grpc"),
    }
    None
}

fn file_endpoint(check: &mut Check<'_>, place: &Place, url: &str) -> String {
    if !is_base_url(url) {
        check.document.report(place, NOT_A_URL);
    }
    url.trim_end_matches('/').to_owned()
}

fn variable_endpoint(check: &mut Check<'_>, protocol: OtlpProtocol) -> Option<String> {
    let (name, url) = first(check, ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])?;
    if !is_base_url(&url) {
        check.document.report_variable(name, NOT_A_URL);
    }
    let url = url.trim_end_matches('/');
    if name == "OTEL_EXPORTER_OTLP_ENDPOINT" || protocol == OtlpProtocol::Grpc {
        return Some(url.to_owned());
    }
    // This variable gives the whole URL, of which we keep the base.
    match url.strip_suffix("/v1/traces") {
        Some(base) => Some(base.to_owned()),
        None => {
            check.document.report_variable(name, "over HTTP expected to end in /v1/traces");
            None
        }
    }
}

/// Headers often carry keys, so no message repeats any part of them.
fn headers(check: &mut Check<'_>) -> Vec<(String, String)> {
    let Some((name, list)) = first(check, ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"]) else {
        return Vec::new();
    };
    let valid = |(key, value): &(String, String)| {
        HeaderName::from_bytes(key.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
    };
    match pairs(&list).filter(|pairs| pairs.iter().all(valid)) {
        Some(pairs) => pairs.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect(),
        None => {
            check.document.report_variable(name, "expected headers as name=value,name=value, percent-encoded");
            Vec::new()
        }
    }
}

fn resource(check: &mut Check<'_>) -> Vec<(String, String)> {
    let list = check.variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut attributes = pairs(&list).unwrap_or_else(|| {
        let message = "expected attributes as key=value,key=value, percent-encoded";
        check.document.report_variable("OTEL_RESOURCE_ATTRIBUTES", message);
        Vec::new()
    });
    let named = attributes.iter().position(|(key, _)| key == SERVICE_NAME).map(|index| attributes.remove(index).1);
    let service = check.variable("OTEL_SERVICE_NAME").or(named).unwrap_or_else(|| "tollgate".to_owned());
    attributes.insert(0, (SERVICE_NAME.to_owned(), service));
    attributes
}

/// The first of two variables that is set: the one for traces wins over the general one.
fn first(check: &Check<'_>, names: [&'static str; 2]) -> Option<(&'static str, String)> {
    names.into_iter().find_map(|name| Some((name, check.variable(name)?)))
}

/// A list as in W3C baggage: `key=value,key=value`, values percent-encoded.
fn pairs(list: &str) -> Option<Vec<(String, String)>> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let (key, value) = entry.split_once('=')?;
            let key = percent_decode_str(key.trim()).decode_utf8().ok().filter(|key| !key.is_empty())?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            Some((key.into_owned(), value.into_owned()))
        })
        .collect()
}

fn is_base_url(url: &str) -> bool {
    url.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty())
            && uri.query().is_none()
            && !url.contains('#')
    })
}

const SERVICE_NAME: &str = "service.name";
const NOT_A_URL: &str = "expected a URL such as http://localhost:4318, without user information, query and fragment";
