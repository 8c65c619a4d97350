//! The wrapped keys in a guest's `<metadata>`.

use super::*;
use crate::key::wrap::WrappedDek;

const OTHER: &str = "8f2c1d5e-0000-4000-8000-000000000002";

fn travelling(document: &str) -> Option<TravellingKeys> {
    read(document.as_bytes()).unwrap().travelling
}

fn metadata(inside: &str) -> Option<TravellingKeys> {
    travelling(&domain_with(&format!("<metadata>{inside}</metadata>")))
}

fn key(bytes: &[u8], provider: &str) -> TravellingKey {
    TravellingKey {
        wrapped_dek: WrappedDek::from_stored(bytes.to_vec()),
        provider: provider.to_owned(),
    }
}

fn keys(keys: Vec<TravellingKey>) -> TravellingKeys {
    TravellingKeys {
        domain: Some(UUID.parse().unwrap()),
        keys,
        fault: None,
    }
}

#[test]
fn what_is_written_is_read_again() {
    for written in [
        keys(vec![]),
        keys(vec![key(b"one", "nkp-a"), key(b"two", "a 'b' <&> \"c\"")]),
    ] {
        assert_eq!(metadata(&written.to_xml()), Some(written.clone()));
        // libvirt gives every element that it is given the namespace and the prefix.
        let bare = written.for_libvirt().replace("<key", "<vg:key");
        let bare = bare.replace("</key", "</vg:key");
        let bare = bare.replace("<vtpm", &format!("<vg:vtpm xmlns:vg='{NAMESPACE}'"));
        assert_eq!(
            metadata(&bare.replace("</vtpm", "</vg:vtpm")),
            Some(written)
        );
    }
}

#[test]
fn what_no_xml_may_have_is_left_out_of_a_providers_name() {
    let name = "a\u{0}b\nc\u{85}d\u{fffe}e\u{ffff}f\u{fffd}g";
    let written = keys(vec![key(b"one", name)]);
    let shown = " provider='a b c d e f\u{fffd}g'";
    for xml in [written.to_xml(), written.for_libvirt()] {
        assert!(xml.contains(shown), "{xml:?}");
    }
}

#[test]
fn what_libvirt_returns_without_prefix_and_namespace_is_read() {
    let written = keys(vec![key(b"one", "nkp-a"), key(b"two", "a 'b' <&>")]);
    let returned = format!("{}\n", written.for_libvirt());
    assert_eq!(TravellingKeys::from_libvirt(&returned), Some(written));
    let none = TravellingKeys::from_libvirt("<vtpm/>").unwrap();
    assert_eq!(none.fault, Some(TravellingFault::NoDomain));
    for other in ["", "<other/>", "<vtpm2/>", "<vtpm", "<vtpm></other>"] {
        assert_eq!(TravellingKeys::from_libvirt(other), None, "{other:?}");
    }
}

#[test]
fn the_namespace_counts_and_not_its_prefix() {
    let wanted = Some(keys(vec![key(b"one", "")]));
    for document in [
        format!("<x:vtpm xmlns:x='{NAMESPACE}' domain='{UUID}'><x:key>b25l</x:key></x:vtpm>"),
        format!("<vtpm xmlns='{NAMESPACE}' domain='{UUID}'><key>b25l</key></vtpm>"),
        format!(
            "<a:vtpm xmlns:a='{NAMESPACE}' domain='{UUID}'>\
             <b:key xmlns:b='{NAMESPACE}'>b25l</b:key></a:vtpm>"
        ),
        format!(
            "<o:vtpm xmlns:o='urn:other'><o:key>eA==</o:key></o:vtpm>\
             <vg:vtpm xmlns:vg='{NAMESPACE}' domain='{UUID}'>\
             <key>eA==</key><o:key xmlns:o='urn:other'>eA==</o:key>\
             <vg:key> b2\n5l </vg:key><vg:more><vg:key>eA==</vg:key></vg:more></vg:vtpm>"
        ),
    ] {
        assert_eq!(metadata(&document), wanted, "{document}");
    }
    let above = domain_with(&format!(
        "<metadata><vg:vtpm domain='{UUID}'><vg:key>b25l</vg:key></vg:vtpm></metadata>"
    ));
    let declared = above.replace("<domain", &format!("<domain xmlns:vg='{NAMESPACE}'"));
    assert_eq!(travelling(&declared), wanted);
    let declared = above.replace("<metadata", &format!("<metadata xmlns:vg='{NAMESPACE}'"));
    assert_eq!(travelling(&declared), wanted);
    // A prefix that is not declared here, or that stands for something else here.
    assert_eq!(travelling(&above), None);
    let hidden = declared.replace("<vg:vtpm", "<vg:vtpm xmlns:vg='urn:other'");
    assert_eq!(travelling(&hidden), None);
    let closed = format!("<x xmlns:vg='{NAMESPACE}'/><vg:vtpm domain='{UUID}'/>");
    assert_eq!(metadata(&closed), None);
}

#[test]
fn only_metadata_of_the_domain_counts() {
    let element = keys(vec![key(b"one", "")]).to_xml();
    for document in [
        domain_with(&element),
        devices(&format!("<metadata>{element}</metadata>")),
        domain_with(&format!("<metadata xmlns='urn:x'>{element}</metadata>")),
        domain_with(&format!(
            "<metadata><o:app xmlns:o='urn:o'>{element}</o:app></metadata>"
        )),
    ] {
        assert_eq!(travelling(&document), None, "{document}");
    }
}

#[test]
fn faults_are_told_and_the_rest_is_read() {
    let fault = |inside: &str, attributes: &str| {
        let element = format!("<vg:vtpm xmlns:vg='{NAMESPACE}'{attributes}>{inside}</vg:vtpm>");
        let found = metadata(&element).unwrap();
        (found.keys.len(), found.fault)
    };
    let own = format!(" domain='{UUID}'");
    let one = "<vg:key>b25l</vg:key>";
    assert_eq!(fault(one, &own), (1, None));
    assert_eq!(fault(one, ""), (1, Some(TravellingFault::NoDomain)));
    let long = format!(" domain='{}'", "x".repeat(5000));
    assert_eq!(fault(one, &long), (1, Some(TravellingFault::NoDomain)));
    for bad in ["", "b25", "*", "<vg:x/>"] {
        let inside = format!("<vg:key>{bad}</vg:key>{one}");
        assert_eq!(
            fault(&inside, &own),
            (1, Some(TravellingFault::NotBase64)),
            "{bad}"
        );
    }
    let too_large = Some(TravellingFault::TooLarge);
    assert_eq!(fault(&one.repeat(9), &own), (8, too_large));
    let long = format!("<vg:key>{}</vg:key>", "AAAA".repeat(13 << 10));
    assert_eq!(fault(&format!("{long}{one}"), &own), (1, too_large));
    let half = format!("<vg:key>{}</vg:key>", "AAAA".repeat(11 << 10));
    assert_eq!(fault(&half.repeat(3), &own), (2, too_large));
    let twice = format!("{0}{0}", keys(vec![key(b"one", "")]).to_xml());
    let found = metadata(&twice).unwrap();
    assert_eq!(
        (found.keys.len(), found.fault),
        (1, Some(TravellingFault::Second))
    );
}

#[test]
fn another_guests_keys_are_known_for_what_they_are() {
    let element = keys(vec![key(b"one", "")]).to_xml().replace(UUID, OTHER);
    let found = metadata(&element).unwrap();
    assert!(found.are_of(OTHER.parse().unwrap()));
    assert!(!found.are_of(UUID.parse().unwrap()));
}

proptest! {
    #[test]
    fn whatever_is_in_metadata_no_document_becomes_unreadable(
        domain in "[ -~]{0,40}", text in "[A-Za-z0-9+/=&;<> \n-]{0,60}",
    ) {
        let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
        let element = format!(
            "<vg:vtpm xmlns:vg='{NAMESPACE}' domain='{}'><vg:key>{}</vg:key></vg:vtpm>",
            escape(&domain), escape(&text),
        );
        prop_assert!(metadata(&element).is_some());
    }
}
