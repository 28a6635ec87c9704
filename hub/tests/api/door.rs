//! What the door refuses, and how it says so.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{TestHub, expect, refused};

#[tokio::test]
async fn a_route_without_the_token_is_refused() {
    let (hub, _dir) = TestHub::start().await;
    let response = hub.bare(Method::GET, "/v1/instances").send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"towline\"");
    for request in [
        hub.bare(Method::GET, "/v1/instances"),
        hub.bare(Method::GET, "/v1/instances").bearer_auth("not-the-token-but-long-enough"),
        hub.bare(Method::GET, "/v1/instances").basic_auth("user", Some("password")),
        hub.get("/v1/instances").bearer_auth("a-second-one"),
        hub.bare(Method::DELETE, "/v1/instances/default/shop"),
        hub.bare(Method::POST, "/v1/instances/default/shop/apply").body("{"),
    ] {
        let problem = refused(request, 401).await;
        assert_eq!(problem.code, "unauthorized");
        assert!(problem.help.unwrap().contains("Bearer"));
    }
    for open in ["/healthz", "/readyz", "/openapi.json", "/v1/openapi.json"] {
        let _: Value = expect(hub.bare(Method::GET, open), 200).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn what_is_not_routed_is_refused_as_a_problem() {
    let (hub, _dir) = TestHub::start().await;
    for path in
        ["/", "/v1", "/v2/instances", "/v1/instances/default", "/v1/instances/default/shop/frobnicate"]
    {
        assert_eq!(refused(hub.get(path), 404).await.code, "not_found");
    }
    let response = hub.request(Method::PATCH, "/v1/instances").send().await.unwrap();
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    let problem = refused(hub.request(Method::PUT, "/v1/instances/default/shop/apply"), 405).await;
    assert_eq!(problem.code, "method_not_allowed");
    hub.stop().await;
}

#[tokio::test]
async fn malformed_bodies_are_told_where_they_are_wrong() {
    let (hub, _dir) = TestHub::start().await;
    let apply = || hub.request(Method::POST, "/v1/instances/default/shop/apply");
    let json = |body: &str| apply().header("content-type", "application/json").body(body.to_owned());
    let detail = refused(json("{\n  \"definitions\": [{\"id\": \"a\"}]}"), 400).await.detail;
    assert!(detail.contains("`definitions[0]`") && detail.contains("line 2"), "{detail}");
    let detail = refused(json("{\"definitions\": [{\"id\": \"\", \"definition\": \"\"}]}"), 400).await.detail;
    assert!(detail.contains("a resource id"), "{detail}");
    let detail = refused(json("not json"), 400).await.detail;
    assert!(detail.contains("line 1 column"), "{detail}");
    assert_eq!(refused(json("\u{feff}{}"), 400).await.code, "malformed");
    assert_eq!(refused(json(&"[".repeat(100_000)), 400).await.code, "malformed");
    assert_eq!(
        refused(apply().body("{}").header("content-type", "text/yaml"), 415).await.code,
        "unsupported_media_type"
    );
    assert_eq!(refused(apply().header("content-type", "application/json"), 400).await.code, "malformed");
    hub.stop().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let (hub, _dir) = TestHub::start().await;
    let large = json!({"id": "shop", "labels": {"a": "x".repeat(100 << 10)}});
    let problem = refused(hub.post("/v1/instances", &large), 413).await;
    assert_eq!(problem.code, "too_large");
    // Announced, and never sent: refused on the announcement.
    let mut stream = TcpStream::connect(hub.address).await.unwrap();
    let token = hub.get("/").build().unwrap().headers()["authorization"].to_str().unwrap().to_owned();
    let head = format!(
        "POST /v1/instances/default/shop/sync HTTP/1.1\r\nhost: hub\r\nauthorization: {token}\r\n\
         content-type: application/json\r\ncontent-length: 999999999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    drop(stream);
    hub.stop().await;
}

#[tokio::test]
async fn who_sends_too_much_reads_why() {
    let (hub, _dir) = TestHub::start().await;
    for _ in 0..5 {
        let body = vec![b' '; 96 << 20];
        let sync = hub.request(Method::POST, "/v1/instances/default/shop/sync");
        let problem = refused(sync.header("content-type", "application/json").body(body), 413).await;
        assert_eq!(problem.code, "too_large");
        let create = hub.request(Method::POST, "/v1/instances").header("content-type", "application/json");
        refused(create.body(vec![b' '; 8 << 20]), 413).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn malformed_http_ends_one_connection_and_nothing_else() {
    let (hub, _dir) = TestHub::start().await;
    for hostile in
        [&b"\x00\x01\x02\x03\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[b'A'; 1 << 20]]
    {
        let mut stream = TcpStream::connect(hub.address).await.unwrap();
        // The hub may hang up before it has read all of it.
        let _ = stream.write_all(hostile).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    let _: Value = expect(hub.get("/v1/instances"), 200).await;
    hub.stop().await;
}

#[tokio::test]
async fn x_a6_hostile_instance_ids_are_refused_at_the_api() {
    let (hub, _dir) = TestHub::start().await;
    let long = "a".repeat(64);
    let hostile =
        ["*", ">", "a.b", "%2a", "a%2Fb", "..%2F..", "A", "a%20b", "-a", "%C3%A9", "%00", "%ff", &long];
    for bad in hostile {
        for path in [
            format!("/v1/instances/default/{bad}"),
            format!("/v1/instances/{bad}/shop/ping"),
            format!("/v1/instances/default/{bad}/export"),
        ] {
            let problem = refused(hub.get(&path), 400).await;
            assert_eq!(problem.code, "malformed", "{path}");
        }
    }
    for empty in ["/v1/instances/default/", "/v1/instances//shop", "/v1/instances/default//ping"] {
        let status = hub.get(empty).send().await.unwrap().status().as_u16();
        assert!(status == 400 || status == 404, "{empty} gave {status}");
    }
    for bad in ["*", ">", "a.b", "", "é", "a/b/c", &long] {
        let problem = refused(hub.post("/v1/instances", &json!({ "id": bad })), 400).await;
        assert!(problem.detail.contains("1 to 63 characters"), "{}", problem.detail);
        let events = hub.get("/v1/events").query(&[("instance", bad)]);
        refused(events, 400).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn parameters_and_headers_are_checked() {
    let (hub, _dir) = TestHub::start().await;
    let ping = "/v1/instances/default/shop/ping";
    for (path, says) in [
        ("?timeout=soon", "30s"),
        ("?timeout=21m", "20m"),
        ("?timeout=0s", "above zero"),
        ("?timeuot=5s", "no parameter `timeuot`"),
        ("?timeout=5s&timeout=6s", "more than once"),
        ("?timeout=%ff", ""),
    ] {
        let problem = refused(hub.get(&format!("{ping}{path}")), 400).await;
        assert!(problem.detail.contains(says), "{path} gave {}", problem.detail);
    }
    refused(hub.get(ping).header("towline-timeout", "never"), 400).await;
    let apply = hub.post("/v1/instances/default/shop/apply", &json!({"definitions": []}));
    let problem = refused(apply.header("idempotency-key", "two words"), 400).await;
    assert!(problem.detail.contains("Idempotency-Key"), "{}", problem.detail);
    refused(hub.get("/v1/events?kind=exploded"), 400).await;
    refused(hub.get("/v1/events?follow=perhaps"), 400).await;
    refused(hub.get("/v1/events").header("last-event-id", "minus one"), 400).await;
    refused(hub.get("/v1/instances/default/shop/logs"), 400).await;
    hub.stop().await;
}

#[tokio::test]
async fn the_document_names_every_route() {
    let (hub, _dir) = TestHub::start().await;
    let document: Value = expect(hub.bare(Method::GET, "/openapi.json"), 200).await;
    let mut routes: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    routes.sort();
    let below = |rest: &str| format!("/v1/instances/{{tenant}}/{{name}}{rest}");
    let mut expected = vec![
        "get /healthz".to_owned(),
        "get /readyz".to_owned(),
        "get /openapi.json".to_owned(),
        "get /v1/openapi.json".to_owned(),
        "get /v1/events".to_owned(),
        "get /v1/instances".to_owned(),
        "post /v1/instances".to_owned(),
        format!("delete {}", below("")),
    ];
    expected.extend(
        ["", "/ping", "/version", "/services", "/export", "/logs"].map(|rest| format!("get {}", below(rest))),
    );
    expected.extend(
        ["/services:lookup", "/services:search", "/apply", "/sync"]
            .map(|rest| format!("post {}", below(rest))),
    );
    let bundle = |rest: &str| below(&format!("/bundles/{{bundle}}{rest}"));
    let job = |rest: &str| below(&format!("/jobs/{{job}}{rest}"));
    expected
        .extend(["/bundles", "/jobs", "/capacity", "/addresses"].map(|rest| format!("get {}", below(rest))));
    expected.extend(["", "/changes", "/status"].map(|rest| format!("get {}", bundle(rest))));
    expected.extend(["put", "delete"].map(|method| format!("{method} {}", bundle(""))));
    expected.extend(["/pause", "/resume", "/retry"].map(|rest| format!("post {}", bundle(rest))));
    expected.extend(["", "/events"].map(|rest| format!("get {}", job(rest))));
    expected.push(format!("post {}", job("/cancel")));
    expected.sort();
    assert_eq!(routes, expected);
    // And each of them is really there.
    for route in routes {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{tenant}", "default").replace("{name}", "absent");
        let path = path.replace("{bundle}", "b").replace("{job}", &"0".repeat(32));
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let follow = if path == "/v1/events" { "?follow=false" } else { "" };
        let response = hub.request(method, &format!("{path}{follow}")).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert!(status != 405 && !text.contains("there is no route"), "{route} gave {status} {text}");
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(document["paths"]["/healthz"]["get"]["security"], json!([{}]), "health needs no token");
    assert_eq!(document["security"], json!([{"token": []}]));
    assert!(document["components"]["schemas"]["ResourceBytes"]["oneOf"].is_array());
    hub.stop().await;
}
