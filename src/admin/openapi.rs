//! The OpenAPI document of the admin API, made of the table of operations and of the documents' own types.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    operation::{OPERATIONS, Operation},
    problem::Problem,
};

/// OpenAPI 3.1.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let described = described(operation, &mut generator);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_ascii_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate admin API",
            "description": "Served on the Unix socket of `listen.admin`, to root and the sidecar's own user.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "`curl --unix-socket /run/tollgate/admin.sock`"}],
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

fn described(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    let mut described = json!({
        "operationId": format!("{:?}", operation.action),
        "summary": operation.summary,
        "responses": {
            operation.status.as_str(): {"description": "Done", "content": content((operation.gives)(generator).into())},
            "default": {
                "description": "Not done, and why",
                "content": {"application/problem+json": {"schema": schema::<Problem>(generator)}},
            },
        },
    });
    if operation.path.contains("{id}") {
        described["parameters"] = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
    }
    if let Some(takes) = operation.takes {
        described["requestBody"] = json!({"required": true, "content": content(takes(generator).into())});
    }
    described
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described_and_every_reference_leads_somewhere() {
        let document = document();
        for operation in OPERATIONS {
            let described = &document["paths"][operation.path][operation.method.to_ascii_lowercase()];
            assert_eq!(described["summary"], operation.summary);
            assert!(described["responses"][operation.status.as_str()].is_object());
        }
        let text = document.to_string();
        let references: Vec<&str> =
            text.split(r##""$ref":"#"##).skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(references.len() > OPERATIONS.len());
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
        assert_eq!(document["components"]["schemas"]["OpenTask"]["additionalProperties"], false);
    }
}
