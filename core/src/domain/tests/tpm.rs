//! What counts as the domain's TPM.

use super::*;

#[test]
fn every_vector_reads_as_its_line_says() {
    let none = "no TPM";
    let expected = BTreeMap::from([
        ("prepare-no-tpm", none),
        (
            "prepare-encrypted",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000001",
        ),
        ("prepare-unencrypted", "1.2"),
        ("prepare-tpm12", "1.2"),
        ("prepare-passthrough", "passthrough"),
        ("prepare-external", "external"),
        (
            "prepare-foreign-tpm",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000001",
        ),
        ("spapr-tpm-proxy-alone", none),
        (
            "spapr-tpm-proxy-beside",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000002",
        ),
        (
            "source-dir",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000003, dir /srv/tpm/guest",
        ),
        ("source-file", "2.0, file /dev/vg0/tpm&guest"),
        ("two-emulators", "error: line 11: there is a second <tpm>"),
        (
            "laid-out-by-hand",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000006",
        ),
        ("byte-order-mark", none),
        (
            "utf-16",
            "error: line 1: the document is UTF-16 or UTF-32; only UTF-8 is read",
        ),
        (
            "utf-16-without-mark",
            "error: line 1: the document is UTF-16 or UTF-32; only UTF-8 is read",
        ),
        (
            "latin-1",
            "error: line 1: the document declares the encoding \"ISO-8859-1\"; only UTF-8 is read",
        ),
        (
            "latin-1-undeclared",
            "error: line 2: the document is not UTF-8",
        ),
        (
            "doctype-bomb",
            "error: line 2: the document has a DOCTYPE, which no domain XML has",
        ),
        (
            "domstatus",
            "error: line 1: the root element is <domstatus>, not <domain> without a namespace",
        ),
        (
            "doctype-not-utf-8",
            "error: line 4: syntax error: DOCTYPE not closed: `>` not found before end of input",
        ),
        ("deep-nesting", "no TPM"),
        // What libvirt takes for a name.
        ("name-of-a-blank", "no TPM"),
        ("name-with-line-break", "no TPM"),
    ]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/domain-xml");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let document = std::fs::read(&path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        found.insert(stem, in_words(&document));
    }
    let found: BTreeMap<_, _> = found
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(found, expected);
}

fn in_words(document: &[u8]) -> String {
    let emulator = match read(document).map(|domain| domain.vtpm) {
        Err(error) => return format!("error: {error}"),
        Ok(None) => return "no TPM".to_owned(),
        Ok(Some(Vtpm::Passthrough)) => return "passthrough".to_owned(),
        Ok(Some(Vtpm::External)) => return "external".to_owned(),
        Ok(Some(Vtpm::Emulator(emulator))) => emulator,
    };
    let version = match emulator.version {
        TpmVersion::V1_2 => "1.2",
        TpmVersion::V2_0 => "2.0",
    };
    let secret = emulator
        .secret_uuid
        .map(|secret| format!(", secret {secret}"));
    let source = emulator.source.map(|source| match source {
        StateSource::Dir(path) => format!(", dir {}", path.display()),
        StateSource::File(path) => format!(", file {}", path.display()),
    });
    [
        version.to_owned(),
        secret.unwrap_or_default(),
        source.unwrap_or_default(),
    ]
    .concat()
}

#[test]
fn only_the_path_of_libvirt_leads_to_a_tpm() {
    let tpm = "<tpm><backend type='emulator' version='2.0'/></tpm>";
    for foreign in [
        domain_with(tpm),
        devices(&format!("<hostdev>{tpm}</hostdev>")),
        domain_with(&format!("<metadata><devices>{tpm}</devices></metadata>")),
        domain_with(&format!("<devices xmlns='urn:x'>{tpm}</devices>")),
        domain_with(&format!("<x:devices xmlns:x='urn:x'>{tpm}</x:devices>")),
        domain_with(&format!("<x:devices>{tpm}</x:devices>")),
        domain_with(&format!("<DEVICES>{tpm}</DEVICES>")),
        devices(&format!("<!--{tpm}-->")),
        devices(&format!("<![CDATA[{tpm}]]>")),
        devices(&tpm.replace("<tpm", "<tpm xmlns='urn:x'")),
        devices(&tpm.replace("tpm>", "x:tpm>")),
    ] {
        assert_eq!(vtpm(&foreign), None, "{foreign}");
    }
    let own = domain_with(&format!("<devices xmlns=''>{tpm}</devices>"));
    assert!(vtpm(&own).is_some(), "no namespace at all");
    let later = domain_with(&format!("<devices/><devices>{tpm}</devices>"));
    assert!(vtpm(&later).is_some(), "libvirt looks into every <devices>");
}

#[test]
fn foreign_children_of_a_backend_say_nothing_of_it() {
    let secret = format!("<encryption secret='{UUID}'/>");
    for foreign in [
        emulator_with(&secret.replace("<encryption", "<encryption xmlns='urn:x'")),
        emulator_with(&format!("<x:group>{secret}</x:group>")),
        emulator_with(&secret.replace("encryption", "x:encryption")),
    ] {
        assert_eq!(emulator(&foreign).secret_uuid, None, "{foreign}");
    }
    assert_eq!(
        error(emulator_with("<encryption x:secret='1'/>")),
        missing("encryption", "secret")
    );
}

fn missing(element: &'static str, attribute: &'static str) -> XmlError {
    XmlError::MissingAttribute { element, attribute }
}

#[test]
fn a_tpm_without_a_version_gets_libvirts_default() {
    let version = |arch: &str, model: &str| {
        emulator(&domain_with(&format!(
            "<devices><tpm{model}><backend type='emulator'/></tpm></devices>
             <os><type{arch}>hvm</type></os>"
        )))
        .version
    };
    for (arch, model, expected) in [
        (" arch='x86_64'", " model='tpm-tis'", TpmVersion::V1_2),
        (" arch='i686'", "", TpmVersion::V1_2),
        ("", " model='tpm-tis'", TpmVersion::V1_2),
        (" arch='x86_64'", " model='tpm-crb'", TpmVersion::V2_0),
        (" arch='aarch64'", " model='tpm-tis'", TpmVersion::V2_0),
        (" arch='ppc64le'", "", TpmVersion::V2_0),
        (" arch='ppc64le'", " model='tpm-spapr'", TpmVersion::V2_0),
    ] {
        assert_eq!(version(arch, model), expected, "{arch}{model}");
    }
}

#[test]
fn the_source_of_an_external_backend_is_a_socket_and_not_state() {
    let backend = "<backend type='external'><source type='unix' path='x'/><encryption/></backend>";
    assert_eq!(
        vtpm(&devices(&format!("<tpm>{backend}</tpm>"))),
        Some(Vtpm::External)
    );
}

#[test]
fn libvirt_keeps_a_state_only_where_the_xml_says_so() {
    let backend = |attribute: &str| {
        let tpm = format!("<tpm><backend type='emulator' {attribute}/></tpm>");
        emulator(&devices(&tpm)).persistent_state
    };
    assert!(backend("persistent_state='yes'"));
    assert!(!backend("persistent_state='no'") && !backend(""));
}

#[test]
fn what_is_wrong_with_a_tpm_is_named() {
    let tpm = |inside: &str| devices(&format!("<tpm>{inside}</tpm>"));
    let encryption = format!("<encryption secret='{UUID}'/>");
    for (document, expected) in [
        (
            devices("<tpm/>"),
            XmlError::MissingChild {
                element: "tpm",
                child: "backend",
            },
        ),
        (tpm("<backend/>"), missing("backend", "type")),
        (
            tpm("<backend type='vtpm'/>"),
            bad_value("a known type of TPM backend", "vtpm"),
        ),
        (
            tpm("<backend type='emulator' version='3.0'/>"),
            bad_value("a known TPM version", "3.0"),
        ),
        (
            tpm(&"<backend type='external'/>".repeat(2)),
            XmlError::Repeated("backend"),
        ),
        (
            devices(&"<tpm><backend type='external'/></tpm>".repeat(2)),
            XmlError::Repeated("tpm"),
        ),
        (
            emulator_with(&encryption.repeat(2)),
            XmlError::Repeated("encryption"),
        ),
        (
            emulator_with("<encryption/>"),
            missing("encryption", "secret"),
        ),
        (
            emulator_with("<encryption secret=''/>"),
            bad_value("a secret's UUID", ""),
        ),
        (
            emulator_with("<encryption secret='vm1'/>"),
            bad_value("a secret's UUID", "vm1"),
        ),
        (
            emulator_with("<source path='/x'/>"),
            missing("source", "type"),
        ),
        (
            emulator_with("<source type='dir'/>"),
            missing("source", "path"),
        ),
        (
            emulator_with("<source type='dir' path='x'/>"),
            bad_value("an absolute path", "x"),
        ),
        (
            emulator_with("<source type='nbd' path='/x'/>"),
            bad_value("a known type of TPM source", "nbd"),
        ),
    ] {
        assert_eq!(error(&document), expected, "{document}");
    }
}
