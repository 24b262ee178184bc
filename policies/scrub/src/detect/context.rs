//! Words that say what stands beside them.
//!
//! A number without a check digit means nothing by itself; "passport no." or 护照号 before it does. Only the
//! neighbourhood of a candidate is searched, so prose without candidates costs nothing. The nearest word decides: in
//! "order 4711, phone 555 0132" the second number is a telephone's.

use super::national::Scheme;
use aho_corasick::automaton::Automaton;
use aho_corasick::dfa::DFA;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, MatchKind};
use std::sync::LazyLock;

/// What a word speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Phone,
    Account,
    Routing,
    Ssn,
    Passport,
    Birth,
    Card,
    Plate,
    CnId,
    Uscc,
    Wallet,
    /// A column of passwords or keys.
    Secret,
    Ip,
    /// A national scheme of its own name.
    National(Scheme),
    /// Something that is numbered and is no person: an order, a parcel, a book, a commit.
    Thing,
    /// Software versions and sections of documents, which look like addresses.
    Version,
}

/// A word beside a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Near {
    pub topic: Topic,
    /// Bytes between word and candidate.
    pub gap: usize,
}

use Topic::*;

/// Lower case; Latin words are matched whole, in identifiers too (`bankAccount`, `bank_account`), Han as they stand.
const WORDS: &[(Topic, &[&str])] = &[
    (
        Phone,
        &[
            "phone",
            "telephone",
            "telephone number",
            "tel",
            "mobile",
            "cell",
            "cellphone",
            "cell phone",
            "call me",
            "call us",
            "call on",
            "call at",
            "please call",
            "or call",
            "to call",
            "can call",
            "just call",
            "whatsapp",
            "wechat",
            "fax",
            "please dial",
            "hotline",
            "landline",
            "handy",
            "telefon",
            "telefono",
            "teléfono",
            "telefone",
            "téléphone",
            "telefonnummer",
            "móvil",
            "movil",
            "celular",
            "mon portable",
            "portable :",
            "tél. portable",
            "n° portable",
            "mobil",
            "rufnummer",
            "cellulare",
            "telefoon",
            "phone number",
            "mobile number",
            "contact number",
            "phones",
            "msisdn",
            "电话",
            "手机",
            "手机号",
            "致电",
            "联系方式",
            "联系电话",
            "座机",
            "拨打",
            "来电",
            "热线",
            "传真",
            "電話",
            "手機",
            "行動電話",
            "携帯",
            "전화",
            "휴대폰",
            "телефон",
            "هاتف",
            "mobilfunk",
            "mobilnummer",
            "festnetz",
            "natel",
            "gsm",
            "gsm-nummer",
            "telemóvel",
            "telemovel",
            "tlf",
            "tlf.",
            "puhelin",
            "puh",
            "numer telefonu",
            "komórka",
            "tel. kom",
            "cep tel",
            "cep telefonu",
            "gsm no",
            "telefonní číslo",
            "telefonszám",
            "τηλέφωνο",
            "τηλ",
            "κινητό",
            "тел",
            "моб",
            "мобильный",
            "номер телефона",
            "телефону",
            "טלפון",
            "נייד",
            "جوال",
            "الهاتف",
            "موبايل",
            "تلفن",
            "फ़ोन",
            "फोन",
            "मोबाइल",
            "電話番号",
            "携帯電話",
            "휴대전화",
            "핸드폰",
            "연락처",
            "전화번호",
            "โทร",
            "เบอร์",
            "โทรศัพท์",
            "điện thoại",
            "số điện thoại",
            "sđt",
            "telepon",
            "nomor telepon",
            "no. hp",
            "手机号码",
            "手機號碼",
            "电话号码",
            "電話號碼",
            "微信同号",
            "固话",
            "办公电话",
            "numéro de téléphone",
            "número de teléfono",
            "numero di telefono",
            "text me",
            "sms",
            "dial",
            "hotline number",
            "reach me",
            "ring me",
        ],
    ),
    (
        Account,
        &[
            "account",
            "account number",
            "account no",
            "acct",
            "acct no",
            "bank account",
            "checking account",
            "savings account",
            "a/c",
            "account num",
            "konto",
            "kontonummer",
            "kontonr",
            "compte",
            "numéro de compte",
            "cuenta",
            "número de cuenta",
            "conta",
            "conta corrente",
            "conto",
            "rekening",
            "rekeningnummer",
            "bankaccount",
            "beneficiary account",
            "deposit account",
            "账号",
            "账户",
            "帐号",
            "帐户",
            "银行账号",
            "银行账户",
            "对公账号",
            "开户行账号",
            "收款账号",
            "汇款账号",
            "银行卡号",
            "銀行帳號",
            "帳號",
            "帳戶",
            "口座番号",
            "계좌",
            "kto",
            "kto-nr",
            "kontonr",
            "bankkonto",
            "bankverbindung",
            "n° de compte",
            "nº de cuenta",
            "numero di conto",
            "conto corrente",
            "número da conta",
            "numer konta",
            "nr konta",
            "rachunek",
            "numer rachunku",
            "hesap",
            "hesap no",
            "hesap numarası",
            "bankgiro",
            "plusgiro",
            "clabe",
            "nuban",
            "счёт",
            "счет",
            "счёта",
            "счета",
            "расчётный счёт",
            "расчетный счет",
            "р/с",
            "рахунок",
            "رقم الحساب",
            "חשבון",
            "खाता",
            "खाता संख्या",
            "口座",
            "계좌번호",
            "เลขที่บัญชี",
            "số tài khoản",
            "nomor rekening",
            "no rekening",
            "číslo účtu",
            "tilinumero",
            "αριθμός λογαριασμού",
            "银行卡账号",
            "收款账户",
            "对公账户",
            "收款人账号",
            "付款账号",
            "帳戶號碼",
            "銀行帳戶",
            "银行帐号",
            "公积金账号",
            "sort code and account",
        ],
    ),
    (
        Routing,
        &["routing", "routing number", "routing no", "aba", "aba number", "aba routing", "rtn", "routing transit"],
    ),
    (
        Ssn,
        &["ssn", "social security", "social security number", "social security no", "socialsecurity", "soc sec", "ss#"],
    ),
    (
        Passport,
        &[
            "passport",
            "passport number",
            "passport no",
            "passport num",
            "passportno",
            "passportnumber",
            "reisepass",
            "reisepassnummer",
            "passeport",
            "pasaporte",
            "passaporto",
            "passaporte",
            "paspoort",
            "paszport",
            "travel document",
            "护照",
            "护照号",
            "护照号码",
            "護照",
            "旅券",
            "여권",
            "паспорт",
            "通行证",
            "港澳通行证",
            "passnummer",
            "pass-nr",
            "passport id",
            "passport #",
            "paspoortnummer",
            "numéro de passeport",
            "n° de passeport",
            "número de pasaporte",
            "numero di passaporto",
            "número do passaporte",
            "numer paszportu",
            "pasaport",
            "pasaport no",
            "pasaport numarası",
            "паспорта",
            "загранпаспорт",
            "пашпорт",
            "جواز السفر",
            "جواز",
            "דרכון",
            "पासपोर्ट",
            "パスポート",
            "パスポート番号",
            "旅券番号",
            "여권번호",
            "หนังสือเดินทาง",
            "พาสปอร์ต",
            "hộ chiếu",
            "paspor",
            "nomor paspor",
            "číslo pasu",
            "útlevél",
            "passi",
            "διαβατήριο",
            "pașaport",
            "護照號碼",
            "護照號",
            "护照编号",
            "因私护照",
            "台胞证",
            "回乡证",
            "travel document number",
        ],
    ),
    (
        Birth,
        &[
            "born",
            "born on",
            "birth",
            "birthday",
            "birthdate",
            "birth date",
            "date of birth",
            "dateofbirth",
            "dob",
            "d.o.b",
            "birthdays",
            "bday",
            "b-day",
            "birth day",
            "geboren",
            "geburtsdatum",
            "geburtstag",
            "geb",
            "né le",
            "née le",
            "date de naissance",
            "naissance",
            "nacido",
            "nacida",
            "fecha de nacimiento",
            "nacimiento",
            "data di nascita",
            "nato il",
            "nata il",
            "nascita",
            "data de nascimento",
            "nascimento",
            "nascido",
            "geboortedatum",
            "出生",
            "出生日期",
            "出生年月",
            "生日",
            "生于",
            "诞生",
            "出生于",
            "生年月日",
            "誕生日",
            "생년월일",
            "дата рождения",
            "родился",
            "родилась",
            "yob",
            "born in",
            "nació",
            "nació el",
            "nacida el",
            "née",
            "nacimento",
            "nato a",
            "geboren op",
            "geboren am",
            "urodzony",
            "urodzona",
            "data urodzenia",
            "dzień urodzenia",
            "doğum tarihi",
            "doğum",
            "doğdu",
            "född",
            "födelsedatum",
            "fødselsdato",
            "født",
            "syntymäaika",
            "syntynyt",
            "datum narození",
            "narozen",
            "narozena",
            "születési idő",
            "született",
            "data nașterii",
            "născut",
            "дата народження",
            "народився",
            "народилася",
            "д.р",
            "г.р",
            "день рождения",
            "ημερομηνία γέννησης",
            "γεννήθηκε",
            "תאריך לידה",
            "تاريخ الميلاد",
            "مواليد",
            "جन्म",
            "जन्म तिथि",
            "जन्मतिथि",
            "ngày sinh",
            "sinh ngày",
            "tanggal lahir",
            "lahir",
            "tarikh lahir",
            "วันเกิด",
            "출생",
            "출생일",
            "생일",
            "出生年月日",
            "誕生",
            "生まれ",
            "出生於",
        ],
    ),
    (
        Card,
        &[
            "card",
            "credit card",
            "debit card",
            "visa",
            "mastercard",
            "amex",
            "card number",
            "pan number",
            "cc",
            "卡号",
            "银行卡",
            "信用卡",
            "借记卡",
            "储蓄卡",
            "carte",
            "tarjeta",
            "kreditkarte",
            "cartão",
            "карта",
            "カード",
            "카드",
            "信用卡号",
            "银行卡卡号",
            "kartennummer",
            "numéro de carte",
            "número de tarjeta",
            "creditcard",
            "card no",
            "cardnumber",
            "kart numarası",
            "karta",
            "carta di credito",
        ],
    ),
    (
        Plate,
        &[
            "license plate",
            "licence plate",
            "plate",
            "plate number",
            "number plate",
            "car plate",
            "vehicle registration",
            "车牌号码",
            "車號",
            "ナンバープレート",
            "registration plate",
            "kennzeichen",
            "plaque d'immatriculation",
            "matrícula",
            "targa",
            "kenteken",
            "车牌",
            "车牌号",
            "車牌",
            "号牌",
        ],
    ),
    (
        CnId,
        &[
            "身份证",
            "身份证号",
            "身份证号码",
            "居民身份证",
            "身份號碼",
            "证件号",
            "证件号码",
            "公民身份号码",
            "resident id",
            "chinese id",
            "prc id",
            "中国身份证",
            "本人身份证",
            "id card",
        ],
    ),
    (Uscc, &["统一社会信用代码", "信用代码", "税号", "纳税人识别号", "uscc", "统一信用代码", "營業執照", "营业执照"]),
    (
        Wallet,
        &[
            "wallet",
            "wallet address",
            "crypto address",
            "deposit address",
            "btc",
            "bitcoin",
            "eth",
            "ethereum",
            "solana",
            "sol address",
            "usdt",
            "trc20",
            "monero",
            "xmr",
            "xrp",
            "dogecoin",
            "cardano",
            "polkadot",
            "billetera",
            "portefeuille",
            "кошелёк",
            "кошелек",
            "钱包",
            "钱包地址",
            "錢包",
            "充币地址",
            "收币地址",
            "ウォレット",
            "지갑",
        ],
    ),
    (
        Ip,
        &[
            "ip",
            "ip address",
            "ipv4",
            "ipv6",
            "ipaddress",
            "client ip",
            "host",
            "server",
            "addr",
            "address",
            "peer",
            "remote",
            "gateway",
            "dns",
            "ping",
            "ssh",
            "endpoint",
            "服务器",
            "地址",
        ],
    ),
    (
        Thing,
        &[
            "order",
            "order number",
            "order no",
            "order id",
            "orderid",
            "tracking",
            "tracking number",
            "tracking no",
            "invoice",
            "invoice number",
            "invoice no",
            "ticket",
            "ticket number",
            "case",
            "reference",
            "ref",
            "isbn",
            "issn",
            "ean",
            "upc",
            "sku",
            "gtin",
            "doi",
            "commit",
            "sha",
            "build",
            "batch",
            "offset",
            "serial",
            "serial number",
            "part number",
            "part no",
            "article number",
            "artikelnummer",
            "model number",
            "member number",
            "注文番号",
            "주문번호",
            "заказ",
            "会员号",
            "学号",
            "工号",
            "取件码",
            "model",
            "page",
            "line",
            "lines",
            "item",
            "items",
            "request id",
            "request",
            "session",
            "session id",
            "trace",
            "trace id",
            "trace_id",
            "transaction",
            "transaction id",
            "receipt",
            "job",
            "pid",
            "port",
            "timestamp",
            "time",
            "ts",
            "epoch",
            "imei",
            "imsi",
            "flight",
            "row",
            "rows",
            "quantity",
            "qty",
            "price",
            "total",
            "amount",
            "budget",
            "cost",
            "size",
            "bytes",
            "checksum",
            "etag",
            "hash",
            "article",
            "patent",
            "case number",
            "confirmation",
            "shipment",
            "parcel",
            "coordinates",
            "latitude",
            "longitude",
            "bestellung",
            "bestellnummer",
            "rechnung",
            "rechnungsnummer",
            "commande",
            "facture",
            "pedido",
            "factura",
            "ordine",
            "fattura",
            "sendungsnummer",
            "订单",
            "订单号",
            "订单编号",
            "单号",
            "快递",
            "快递单号",
            "运单",
            "运单号",
            "流水",
            "流水号",
            "参考号",
            "内部参考号",
            "编号",
            "书号",
            "工单",
            "工单号",
            "时间戳",
            "批次",
            "偏移",
            "请求",
            "请求id",
            "校验和",
            "库存",
            "货架",
            "发票号",
            "发票号码",
            "发票代码",
            "合同",
            "合同编号",
            "合同号",
            "金额",
            "页",
            "第",
            "訂單",
            "交易号",
            "凭证号",
        ],
    ),
    (
        Version,
        &[
            "version",
            "versions",
            "ver",
            "v",
            "release",
            "releases",
            "released",
            "section",
            "sections",
            "chapter",
            "clause",
            "paragraph",
            "firmware",
            "oid",
            "driver",
            "upgraded",
            "upgrade",
            "downgrade",
            "changelog",
            "revision",
            "rev",
            "patch",
            "semver",
            "バージョン",
            "버전",
            "версия",
            "versión",
            "versão",
            "versione",
            "kernel",
            "figure",
            "table",
            "版本",
            "版本号",
            "升级",
            "升级到",
            "升到",
            "固件",
            "章节",
            "小节",
            "条款",
        ],
    ),
];

/// What stands between a word and what it speaks of, at most, in bytes.
const REACH: usize = 44;
/// Longest word that is looked for whole, in bytes.
const MAX_WORD: usize = 24;
/// How far from a candidate words are looked for.
pub const WINDOW: usize = REACH + MAX_WORD;
/// The same behind a candidate.
const REACH_BEHIND: usize = 24;

struct Words {
    automaton: AhoCorasick,
    topics: Vec<Topic>,
}

static AUTOMATON: LazyLock<Option<Words>> = LazyLock::new(|| {
    let (words, topics): (Vec<String>, Vec<Topic>) = all_forms().unzip();
    let automaton = AhoCorasick::builder()
        // Twelve megabytes for a fifth of the time of a search in ordinary text, against the compact form.
        .kind(Some(AhoCorasickKind::DFA))
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostLongest)
        .build(words)
        .ok()?;
    Some(Words { automaton, topics })
});

/// The words of ASCII from their ends to their beginnings, so that a search before a candidate begins beside it and
/// ends at the first word.
struct Backwards {
    automaton: DFA,
    /// Topic and length.
    words: Vec<(Topic, usize)>,
}

static BACKWARDS: LazyLock<Option<Backwards>> = LazyLock::new(|| {
    let ascii = || all_forms().filter(|(word, _)| word.is_ascii());
    let reversed = ascii().map(|(word, _)| word.bytes().rev().collect::<Vec<u8>>());
    let automaton = DFA::builder().ascii_case_insensitive(true).build(reversed).ok()?;
    Some(Backwards { automaton, words: ascii().map(|(word, topic)| (topic, word.len())).collect() })
});

fn all_forms() -> impl Iterator<Item = (String, Topic)> {
    let national = super::national::WORDS.iter().map(|(scheme, words)| (National(*scheme), *words));
    let words = WORDS.iter().copied().chain(national);
    words.flat_map(|(topic, words)| words.iter().flat_map(|word| forms(word)).map(move |form| (form, topic)))
}

/// A word as it stands, and several words as identifiers join them. The automaton ignores the case of ASCII only, so
/// letters of other scripts come with a capital first one too.
fn forms(word: &str) -> Vec<String> {
    let mut forms = vec![word.to_owned()];
    if word.is_ascii() && word.contains(' ') {
        forms.extend(["_", "-", ""].map(|joint| word.replace(' ', joint)));
    }
    if let Some(first) = word.chars().next().filter(|first| !first.is_ascii()) {
        let capital: String = first.to_uppercase().chain(word.chars().skip(1)).collect();
        let capitals = word.to_uppercase();
        if capital != word {
            forms.push(capital);
        }
        if word.chars().count() <= 5 && capitals != word {
            forms.push(capitals);
        }
    }
    forms
}

/// Makes the tables, so that the first request does not wait for them.
pub fn warm() {
    LazyLock::force(&AUTOMATON);
    LazyLock::force(&BACKWARDS);
}

/// The nearest word before `at`, on the same line, or on the line before when `at` begins its own.
pub fn before(text: &str, at: usize) -> Option<Near> {
    let bytes = text.as_bytes();
    let mut from = at.saturating_sub(WINDOW);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let line = memchr::memrchr(b'\n', &bytes[from..at]).map_or(from, |place| from + place + 1);
    let begins =
        bytes[line..at].iter().all(|byte| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'-' | b'*' | b'>'));
    // The line before speaks for this one when it is a label, not a row of a table.
    let is_row = |above: &[u8]| above.iter().any(|byte| matches!(byte, b',' | b'\t' | b'|' | b';'));
    let above = match begins && line > from {
        true => memchr::memrchr(b'\n', &bytes[from..line - 1]).map_or(from, |place| from + place + 1),
        false => line,
    };
    let from = if above < line && is_row(&bytes[above..line]) { line } else { above };
    let window = &text[from..at];
    if window.is_ascii() {
        // The end of a longer word would be another: "french social security number".
        let more = from.saturating_sub(8);
        let is_cut =
            from == at.saturating_sub(WINDOW) && bytes[more..from].is_ascii() && !bytes[more..from].contains(&b'\n');
        return backwards(text, if is_cut { more } else { from }, at);
    }
    let words = AUTOMATON.as_ref()?;
    let mut near = None;
    for found in words.automaton.find_iter(window) {
        let gap = window.len() - found.end();
        let topic = words.topics[found.pattern().as_usize()];
        if gap <= REACH && is_whole(text, from + found.start(), from + found.end()) {
            near = Some(Near { topic, gap });
        }
    }
    // What parts the nearest from the candidate parts all others too.
    near.filter(|near| !breaks(&window[window.len() - near.gap..]))
}

/// The nearest word between `from` and `at`, which are ASCII.
fn backwards(text: &str, from: usize, at: usize) -> Option<Near> {
    let bytes = text.as_bytes();
    let Backwards { automaton, words } = BACKWARDS.as_ref()?;
    let start = automaton.start_state(Anchored::No).ok()?;
    let mut state = start;
    let mut found: Option<(usize, Topic)> = None;
    for (place, &byte) in bytes[..at].iter().enumerate().skip(from).rev() {
        // What parts everything farther away; `breaks` knows the rest.
        if PARTS[usize::from(byte)]
            && (matches!(byte, b';' | b'|')
                || matches!(bytes[place + 1..at], [b' ', next, ..] if next.is_ascii_uppercase()))
        {
            break;
        }
        state = automaton.next_state(Anchored::No, state, byte);
        if state == start && (found.is_some() || place + REACH < at) {
            break;
        }
        if !automaton.is_special(state) || !automaton.is_match(state) {
            continue;
        }
        for index in 0..automaton.match_len(state) {
            let (topic, length) = words[automaton.match_pattern(state, index).as_usize()];
            let end = place + length;
            // Of words that end at the same place the longest.
            let is_next = found.is_none_or(|(known, _)| known == end);
            if is_next && at - end <= REACH && is_whole(text, place, end) {
                found = Some((end, topic));
            }
        }
        if found.is_some_and(|(end, _)| place + MAX_WORD + 8 < end) {
            break;
        }
    }
    let (end, topic) = found?;
    (!breaks(&text[end..at])).then_some(Near { topic, gap: at - end })
}

/// Bytes that part a candidate from words before them, or may.
const PARTS: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = *b";|.!?";
    let mut place = 0;
    while place < bytes.len() {
        table[bytes[place] as usize] = true;
        place += 1;
    }
    table
};

/// The nearest word behind `at`, on the same line.
pub fn behind(text: &str, at: usize) -> Option<Near> {
    let bytes = text.as_bytes();
    let mut to = (at + REACH_BEHIND + MAX_WORD).min(text.len());
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    let to = memchr::memchr(b'\n', &bytes[at..to]).map_or(to, |place| at + place);
    let words = AUTOMATON.as_ref()?;
    let window = &text[at..to];
    let found = words.automaton.find_iter(window).find(|found| is_whole(text, at + found.start(), at + found.end()))?;
    let gap = found.start();
    (gap <= REACH_BEHIND && !breaks(&window[..gap]) && !is_label(&bytes[at + found.end()..]))
        .then(|| Near { topic: words.topics[found.pattern().as_usize()], gap })
}

/// The topics of all words of `label`, a column's or a field's name.
pub fn label(label: &str) -> Option<Topic> {
    let words = AUTOMATON.as_ref()?;
    let mut topic = None;
    for found in words.automaton.find_iter(label) {
        if is_whole(label, found.start(), found.end()) {
            topic = Some(words.topics[found.pattern().as_usize()]);
        }
    }
    topic
}

/// Whether a word that `rest` follows is the name of the next value: `phone: `, `"phone":`, `phone=`, `phone>`.
fn is_label(rest: &[u8]) -> bool {
    let name = rest.iter().take(24).take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    let rest = &rest[name..];
    let quotes = rest.iter().take(4).take_while(|byte| matches!(byte, b'"' | b'\'' | b'\\' | b'*' | b' ')).count();
    matches!(rest.get(quotes), Some(b':' | b'=' | b'>'))
}

/// Whether a Latin word is a word of its own, or one of an identifier's.
fn is_whole(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let (first, last) = (bytes[start], bytes[end - 1]);
    if first >= 0x80 {
        return true;
    }
    let opens = match start.checked_sub(1).map(|before| bytes[before]) {
        Some(before) => !before.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && first.is_ascii_uppercase()),
        None => true,
    };
    let closes = match bytes.get(end) {
        Some(b's') => !bytes.get(end + 1).is_some_and(u8::is_ascii_alphabetic),
        Some(after) => !after.is_ascii_alphabetic() || (after.is_ascii_uppercase() && last.is_ascii_lowercase()),
        None => true,
    };
    opens && closes
}

/// Whether a sentence or a clause ends in what stands between a word and a candidate.
fn breaks(gap: &str) -> bool {
    let bytes = gap.as_bytes();
    // "no. 123" and "passport no. X123" go on; "end. Next" does not.
    if bytes == b". " {
        return false;
    }
    // Abbreviations are short, and what follows them is no capital.
    let full_stop = |place: usize| {
        let word = bytes[..place].iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let long = word >= 4 || place > 0 && bytes[place - 1].is_ascii_digit();
        let next = bytes.get(place + 2).copied().unwrap_or(b' ');
        bytes.get(place + 1) == Some(&b' ')
            && (next.is_ascii_uppercase() || (next.is_ascii_lowercase() || next >= 0x80) && long)
    };
    // The next field of a record: `"a": "1", "b": "`, `a=1 b=`, `</a><b>`, `a=1&b=`.
    let next = |place: usize| bytes.get(place + 1).copied().unwrap_or(b' ');
    let ends = |(place, byte): (usize, &u8)| match byte {
        b';' | b'|' => true,
        b'.' | b'!' | b'?' => full_stop(place),
        b'"' | b'\'' => next(place) == b',',
        b'<' => next(place) == b'/',
        b'>' => next(place) == b'<',
        b'V' => bytes[place..].starts_with(b"VALUES"),
        b'&' => next(place).is_ascii_alphabetic(),
        b'=' => bytes[place + 1..].iter().skip_while(|byte| matches!(byte, b' ' | b'=')).any(|byte| *byte == b'='),
        0xE3 => bytes[place..].starts_with("。".as_bytes()),
        0xEF => bytes[place..].starts_with("；".as_bytes()),
        _ => false,
    };
    bytes.iter().enumerate().any(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic_before(text: &str) -> Option<Topic> {
        let at = text.find('7').unwrap();
        before(text, at).map(|near| near.topic)
    }

    #[test]
    fn the_nearest_word_decides() {
        assert_eq!(topic_before("order 1, phone: 7"), Some(Phone));
        assert_eq!(topic_before("phone 1, order no. 7"), Some(Thing));
        assert_eq!(topic_before("{\"passportNumber\": \"7"), Some(Passport));
        assert_eq!(topic_before("bank_account=7"), Some(Account));
        assert_eq!(topic_before("我的护照号码是7"), Some(Passport));
        assert_eq!(topic_before("Date of birth:\n7"), Some(Birth));
        assert_eq!(topic_before("a hotel 7"), None, "`tel` is no word of its own there");
        assert_eq!(topic_before("My phone broke. The 7"), None);
    }

    #[test]
    fn a_word_behind_speaks_too() {
        assert_eq!(behind("1990年1月1日出生", 15).map(|near| near.topic), Some(Birth));
        assert_eq!(behind("123 is my SSN", 3).map(|near| near.topic), Some(Ssn));
        assert!(behind("123. My SSN", 3).is_none());
    }
}
