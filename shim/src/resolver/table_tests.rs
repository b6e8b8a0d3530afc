use kelson_shim_proto::names::Endpoint;

use super::*;

fn names(network: &str, endpoints: &[(&str, &[&str], &[&str])]) -> Names {
    Names {
        format: kelson_shim_proto::FORMAT,
        generation: 1,
        network: network.to_owned(),
        internal: false,
        upstreams: Vec::new(),
        endpoints: endpoints
            .iter()
            .map(|(id, names, addresses)| Endpoint {
                id: (*id).to_owned(),
                names: names.iter().map(|&name| name.to_owned()).collect(),
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                listener: None,
            })
            .collect(),
    }
}

fn view() -> View {
    let back = names(
        "Back",
        &[
            ("0123456789abcdef", &["web", "www"], &["10.0.0.2", "fd00::2"]),
            ("123456789abcdef0", &["web2", "www"], &["10.0.0.3"]),
        ],
    );
    let links = BTreeMap::from([("Alias".to_owned(), "web2".to_owned())]);
    View::new(vec![Arc::new(Zone::new(&back))], &links, None)
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut query = Packet::new_query(7);
    let name = Name::new(name).unwrap();
    query.questions.push(Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    query.build_bytes_vec().unwrap()
}

/// The data of every answer, as text; `None` for what is forwarded.
fn ask(view: &View, name: &str, kind: TYPE, turn: usize) -> Option<Vec<String>> {
    let Verdict::Reply(reply) = view.consider(&query(name, kind), true, turn) else {
        return None;
    };
    let reply = Packet::parse(&reply).unwrap();
    assert_eq!(reply.rcode(), RCODE::NoError);
    let text = reply.answers.iter().map(|answer| match &answer.rdata {
        RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
        RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
        RData::PTR(name) => name.0.to_string(),
        other => format!("{other:?}"),
    });
    Some(text.collect())
}

#[test]
fn names_aliases_ids_and_links() {
    let view = view();
    let all = |name, kind| ask(&view, name, kind, 0);
    let one = |text: &str| Some(vec![text.to_owned()]);
    assert_eq!(all("web", TYPE::A), one("10.0.0.2"));
    assert_eq!(all("WEB", TYPE::AAAA), one("fd00::2"));
    assert_eq!(all("web.back", TYPE::A), one("10.0.0.2"));
    assert_eq!(all("0123456789ab", TYPE::A), one("10.0.0.2"));
    assert_eq!(all("alias", TYPE::A), one("10.0.0.3"));
    // Known, but not of this type: no other server may be asked, or a search list would go on.
    assert_eq!(all("web2", TYPE::AAAA), Some(vec![]));
    assert_eq!(all("web", TYPE::MX), Some(vec![]));
    assert_eq!(all("0123456789a", TYPE::A), None);
    assert_eq!(all("web.front", TYPE::A), None);
    assert_eq!(all("webback", TYPE::A), None);
}

#[test]
fn shared_names_take_turns() {
    let view = view();
    let first = |turn| ask(&view, "www", TYPE::A, turn).unwrap();
    assert_eq!(first(0), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(first(1), ["10.0.0.3", "10.0.0.2"]);
}

#[test]
fn addresses_have_names() {
    let view = view();
    let reverse = |name: &str| ask(&view, name, TYPE::PTR, 0);
    assert_eq!(
        reverse("2.0.0.10.in-addr.arpa"),
        Some(vec!["web.back".to_owned()])
    );
    let v6 = format!("2.{}d.f.ip6.arpa", "0.".repeat(29));
    assert_eq!(reverse(&v6), Some(vec!["web.back".to_owned()]));
    assert_eq!(reverse("9.0.0.10.in-addr.arpa"), None);
    assert_eq!(reverse("2.0.0.in-addr.arpa"), None);
}

#[test]
fn many_addresses_do_not_fit_a_datagram() {
    let endpoints: Vec<(String, String)> = (0..100)
        .map(|n| (format!("id{n:010}"), format!("10.0.1.{n}")))
        .collect();
    let endpoints: Vec<(&str, &[&str], [&str; 1])> = endpoints
        .iter()
        .map(|(id, address)| (id.as_str(), &["many"][..], [address.as_str()]))
        .collect();
    let endpoints: Vec<(&str, &[&str], &[&str])> =
        endpoints.iter().map(|(i, n, a)| (*i, *n, &a[..])).collect();
    let view = View::new(
        vec![Arc::new(Zone::new(&names("n", &endpoints)))],
        &BTreeMap::new(),
        None,
    );
    let asked = query("many", TYPE::A);
    let parts = |datagram| {
        let Verdict::Reply(reply) = view.consider(&asked, datagram, 0) else {
            panic!("it is a name of ours");
        };
        let parsed = Packet::parse(&reply).unwrap();
        (
            parsed.has_flags(PacketFlag::TRUNCATION),
            parsed.answers.len(),
            reply.len() <= PLAIN,
        )
    };
    assert_eq!(parts(true), (true, 0, true));
    assert_eq!(parts(false), (false, 100, false));
}

#[test]
fn garbage_is_refused_or_ignored() {
    let view = view();
    assert_eq!(view.consider(b"short", true, 0), Verdict::Ignore);
    let mut answer = query("web", TYPE::A);
    answer[2] |= 0x80;
    assert_eq!(view.consider(&answer, true, 0), Verdict::Ignore);
    let mut cut = query("web", TYPE::A);
    cut.truncate(15);
    let Verdict::Reply(reply) = view.consider(&cut, true, 0) else {
        panic!("a format error is told");
    };
    assert_eq!((reply.len(), reply[3] & 0xf, &reply[..2]), (12, 1, &[0, 7][..]));
    let mut update = query("web", TYPE::A);
    update[2] = 5 << 3;
    let Verdict::Reply(reply) = view.consider(&update, true, 0) else {
        panic!("an unknown operation is told");
    };
    assert_eq!(reply[3] & 0xf, 4);
}

#[test]
fn an_internal_network_asks_nobody() {
    let server = Upstream {
        address: "192.0.2.1:53".parse().unwrap(),
        from_host: false,
    };
    let mut inner = names("inner", &[]);
    inner.internal = true;
    inner.upstreams = vec![server.clone()];
    let inner = Arc::new(Zone::new(&inner));
    let own = Some(vec![server.clone()]);
    let only = View::new(vec![Arc::clone(&inner)], &BTreeMap::new(), own.clone());
    assert!(only.upstreams().is_empty());
    let both = View::new(
        vec![inner, Arc::new(Zone::new(&names("open", &[])))],
        &BTreeMap::new(),
        own,
    );
    assert_eq!(both.upstreams(), [server]);
}
