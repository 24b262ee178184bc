//! Names and postal addresses, only where words introduce them. Anything more needs a model.

use super::secret;
use crate::kind::Kind;
use std::ops::Range;

/// Words that introduce, and what they introduce.
pub const INTRODUCTIONS: &[(&str, Kind)] = &[
    ("name is ", Kind::Person),
    ("Full name:", Kind::Person),
    ("full_name\"", Kind::Person),
    ("Customer:", Kind::Person),
    ("Patient:", Kind::Person),
    ("Employee:", Kind::Person),
    ("我叫", Kind::Person),
    ("姓名", Kind::Person),
    ("联系人", Kind::Person),
    ("收货人", Kind::Person),
    ("收件人", Kind::Person),
    ("经办人", Kind::Person),
    ("I live at ", Kind::Address),
    ("Ship it to ", Kind::Address),
    ("ddress:", Kind::Address),
    ("我住在", Kind::Address),
    ("地址：", Kind::Address),
    ("地址:", Kind::Address),
    ("住址：", Kind::Address),
    ("住址:", Kind::Address),
];

/// How sure a name or an address is: less than anything with a check.
const INTRODUCED: f32 = 0.7;

/// What the introduction that ends at `end` introduces.
pub fn introduced(text: &str, kind: Kind, end: usize) -> Option<(Range<usize>, f32)> {
    let rest = &text[end..];
    let start = end + rest.len() - rest.trim_start_matches([' ', ':', '：', '"', '\'', '=', '*']).len();
    if start - end > 6 {
        return None;
    }
    let rest = &text[start..];
    let length = match kind {
        Kind::Person if rest.starts_with(|first: char| first.is_ascii_uppercase()) => latin_name(rest)?,
        Kind::Person => han_name(rest)?,
        _ if rest.starts_with(|first: char| first.is_ascii_digit()) => street_address(rest)?,
        _ => han_address(rest)?,
    };
    (!secret::is_placeholder(&rest[..length])).then_some((start..start + length, INTRODUCED))
}

/// Two to four capitalised words; titles count, so do hyphens, apostrophes and particles.
fn latin_name(rest: &str) -> Option<usize> {
    let mut end = 0;
    let mut words = 0;
    let mut at = 0;
    for word in rest.split_inclusive(' ').take(5) {
        let bare = word.trim_end_matches(' ');
        let core = bare.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '"', '|', '\n']);
        let core = core.split(['\n', ',', '"', '<', '|', ')']).next().unwrap_or(core);
        let capital = core.starts_with(char::is_uppercase)
            && core.chars().all(|letter| letter.is_alphabetic() || matches!(letter, '-' | '\'' | '.'));
        let particle = matches!(core, "de" | "van" | "von" | "der" | "la" | "del" | "da" | "di" | "bin" | "al");
        if !(capital || particle && words > 0) {
            break;
        }
        let title =
            matches!(core, "Mr" | "Mrs" | "Ms" | "Miss" | "Dr" | "Prof" | "Mr." | "Mrs." | "Ms." | "Dr." | "Prof.");
        words += usize::from(capital && !title);
        end = at + core.len();
        // A full stop behind a title goes on; behind a name it ends the sentence.
        if core.len() < bare.len() && !(title && bare.len() == core.len() + 1) {
            break;
        }
        at += word.len();
    }
    (2..=4).contains(&words).then_some(end)
}

/// The surnames that nine in ten Chinese names begin with.
const SURNAMES: &str = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤常温康施文牛樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂成苗谷盛曲翁冉骆蓝路游辛靳管柴蒙鲍华喻祁蒲房滕屈饶解牟艾尤阳时穆农司卓古吉缪简车项连芦麦褚娄窦戚岑景党宫费卜冷晏席卫米柏宗瞿桂全佟应臧闵苟邬边卞姬师和仇栾隋商刁沙荣巫寇桑郎甄丛仲虞敖巩明佘池查麻苑迟邝官封谈匡鞠惠荆乐冀郁胥南班储原栗燕楚鄢劳谌奚皮粟冼蔺楼盘满闻位厉伊仝区郜海阚花权强帅屠豆朴盖练廉禹井祖漆巴丰支卿国狄平计索宣晋相初门云容敬来扈晁芮都普阙浦戈伏鹿薄邸雍辜羊阿乌母裘亓修邰赫杭况那宿鲜印逯隆茹诺战慕危玉银亢嵇公哈湛宾戎勾茅利於呼居揭干但尉冶斯元束檀衣信展阴昝智幸奉植衡富尧闭由";

/// Two or three characters that begin with a surname and end where a name ends.
fn han_name(rest: &str) -> Option<usize> {
    let first = rest.chars().next().filter(|first| SURNAMES.contains(*first))?;
    let is_han = |character: &char| matches!(u32::from(*character), 0x4E00..=0x9FFF);
    let run = rest.chars().take(5).take_while(is_han).count();
    let _ = first;
    let count = match run {
        2 | 3 => run,
        // What follows directly belongs to the sentence; two-character given names are the rule.
        4.. => {
            const FOLLOWS: &str = "已的，是在和与及等把将说电手护身";
            let fourth = rest.chars().nth(3)?;
            let third = rest.chars().nth(2)?;
            if FOLLOWS.contains(third) {
                2
            } else if FOLLOWS.contains(fourth) {
                3
            } else {
                return None;
            }
        }
        _ => return None,
    };
    Some(rest.chars().take(count).map(char::len_utf8).sum())
}

/// A number, capitalised words, a comma and a place.
fn street_address(rest: &str) -> Option<usize> {
    let line = rest.split('\n').next()?;
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=6).contains(&digits) || !line[digits..].starts_with(' ') {
        return None;
    }
    let mut end = digits;
    let mut words = 0;
    let mut commas = 0;
    for word in line[digits + 1..].split(' ').take(14) {
        let core = word.trim_end_matches([',', '.', ';', '!', '?']);
        let fits = core.starts_with(|first: char| first.is_uppercase() || first.is_ascii_digit())
            && core.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '\'' | '.' | '#'));
        if !fits || commas > 2 {
            break;
        }
        words += 1;
        commas += usize::from(word.ends_with(','));
        end += 1 + core.len();
        if word.ends_with('.') && !matches!(core, "St" | "Ave" | "Rd" | "Apt" | "Blvd" | "No" | "Ste")
            || commas > 0 && !word.ends_with(',') && word.len() > core.len()
        {
            break;
        }
        end += word.len() - core.len();
    }
    let text = &line[..end.min(line.len())];
    (words >= 3 && commas > 0).then(|| text.trim_end_matches([',', '.', ' ']).len())
}

/// A place in Han that names a province, a city or a district, and a house.
fn han_address(rest: &str) -> Option<usize> {
    let ends = |character: char| {
        character.is_whitespace() || matches!(character, '，' | '。' | '；' | ',' | ';' | '"' | '|' | '、' | '(' | '（')
    };
    let length = rest
        .char_indices()
        .take(60)
        .find(|(_, character)| ends(*character))
        .map_or_else(|| rest.len().min(180), |(at, _)| at);
    let address = rest.get(..length)?;
    let places = ["省", "市", "区", "县", "路", "街", "镇", "村", "道", "行政区"]
        .iter()
        .filter(|sign| address.contains(**sign))
        .count();
    let house = ["室", "号", "栋", "楼", "层", "单元", "弄", "座"]
        .iter()
        .filter_map(|sign| address.rfind(sign).map(|at| at + sign.len()))
        .max()?;
    (places >= 2 && address.bytes().any(|byte| byte.is_ascii_digit())).then_some(house)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<&str> {
        INTRODUCTIONS.iter().find_map(|(word, kind)| {
            let at = text.find(word)?;
            introduced(text, *kind, at + word.len()).map(|(range, _)| &text[range])
        })
    }

    #[test]
    fn only_what_is_introduced_is_found() {
        assert_eq!(found("My name is Ms. Elizabeth Molina. DOB"), Some("Ms. Elizabeth Molina"));
        assert_eq!(found("Full name: Nicholas Valencia\nDate of birth"), Some("Nicholas Valencia"));
        assert_eq!(found("我叫周利。出生"), Some("周利"));
        assert_eq!(found("经办人王春梅已签字"), Some("王春梅"));
        assert_eq!(
            found("I live at 9889 James Throughway, Kimberlychester. Turn"),
            Some("9889 James Throughway, Kimberlychester")
        );
        assert_eq!(found("我住在江苏省巢湖市江北区吕路2号9栋1306室。帮"), Some("江苏省巢湖市江北区吕路2号9栋1306室"));
        assert_eq!(found("The file name is Cargo"), None);
        assert_eq!(found("I live at home"), None);
    }
}
