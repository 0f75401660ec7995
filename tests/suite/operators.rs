//! What operators have: HTTP, metrics, dashboard and alerts, web hooks, the log's level. All of it from outside.

mod alerts;
mod hooks;
mod http;
mod kinds;
mod topics;
mod trace;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use simquota_tests::process::LIMIT;

use crate::world::{World, read};

/// An answer: status, headers in lower case, body.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: String,
}

/// One request over a connection of its own.
fn request(at: SocketAddr, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let bearer = token.map_or(String::new(), |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{bearer}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        headers.push(line.trim().to_lowercase());
    }
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    Answer {
        status,
        headers,
        body,
    }
}

fn get(at: SocketAddr, path: &str, token: Option<&str>) -> Answer {
    request(at, "GET", path, token, "")
}

/// Ends the service, writes more into its configuration, and starts it again: where it listens for HTTP.
fn restart_with(world: &mut World, more: &str) -> SocketAddr {
    if let Some(mut cloud) = world.cloud.take() {
        cloud.terminate().unwrap();
        cloud.wait_exit(LIMIT).unwrap();
    }
    let path = world.folder.path().join("cloud.toml");
    let base = read(&path);
    let base = base.split("\n[http]").next().unwrap();
    let text = format!("{base}\n[http]\nlisten = \"127.0.0.1:0\"\n{more}");
    fs::write(&path, text).unwrap();
    world.start_cloud();
    listens(world)
}

fn listens(world: &World) -> SocketAddr {
    let cloud = world.cloud.as_ref().unwrap();
    let line = cloud
        .wait_line(|line| line.contains("listening for HTTP"), LIMIT)
        .unwrap();
    let address = line.text.split("address=").nth(1).unwrap();
    address.split(' ').next().unwrap().parse().unwrap()
}

/// A token of a key in the service's folder.
fn token(world: &World, key: &str) -> String {
    world.text(&["token", "--key", key]).trim().to_owned()
}
