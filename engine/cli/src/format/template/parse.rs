//! Template text to tree: lexing and parsing of the Go template subset.

/// A place in the template, as a byte offset.
pub type At = usize;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// Text between actions.
    Text(String),
    /// `{{pipeline}}`, with variables it declares (`$x := ...`) or sets.
    Action(Option<String>, Pipeline),
    /// `{{if}}`.
    If(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{with}}`.
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// `{{range $key, $value := pipeline}}`.
    Range {
        variables: Vec<String>,
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{break}}`.
    Break,
    /// `{{continue}}`.
    Continue,
}

/// Commands joined by `|`.
pub type Pipeline = Vec<Call>;

/// An operand with arguments: `index .A 0`, `.Label "x"`, or an operand alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The words.
    pub words: Vec<Operand>,
    /// Where it begins.
    pub at: At,
}

/// One word of a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// `.A.B` from the dot; empty is the dot itself. Each field with its place.
    Dot(Vec<(String, At)>),
    /// `$x.A.B`.
    Variable(String, Vec<(String, At)>),
    /// A function's name.
    Function(String, At),
    /// A literal.
    Literal(serde_json::Value),
    /// `(pipeline).A`.
    Group(Pipeline, Vec<(String, At)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Field(String),
    Dot,
    Variable(String),
    Word(String),
    Literal(serde_json::Value),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
    /// Blank space; it separates `.A .B` from `.A.B`.
    Space,
}

/// Parses a template.
///
/// # Errors
/// The text after docker's `template parsing error: template: :1: `.
pub fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = Vec::new();
    cut(text, &mut pieces)?;
    let mut parser = Parser {
        pieces: pieces.into_iter().peekable(),
        depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        Ended::Eof => Ok(nodes),
        Ended::End => Err("unexpected {{end}}".into()),
        Ended::Else(_) => Err("unexpected {{else}}".into()),
    }
}

/// Nesting of blocks that is accepted, so that a template cannot exhaust the stack.
const DEPTH_LIMIT: usize = 100;

type Tokens = Vec<(Token, At)>;

enum Piece {
    Text(String),
    Action(Tokens, At),
}

/// Separates text from actions, applying `{{-` and `-}}`.
fn cut(text: &str, pieces: &mut Vec<Piece>) -> Result<(), String> {
    let mut at = 0;
    let mut trim_next = false;
    while let Some(open) = text[at..].find("{{").map(|offset| at + offset) {
        let mut literal = &text[at..open];
        if trim_next {
            literal = literal.trim_start();
        }
        let mut inside = open + 2;
        if text[inside..].starts_with("- ") {
            literal = literal.trim_end();
            inside += 2;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.to_owned()));
        }
        if text[inside..].trim_start().starts_with("/*") {
            let close = text[inside..].find("*/").ok_or("unclosed comment")? + inside + 2;
            let rest = text[close..].trim_start();
            trim_next = rest.starts_with("-}}");
            let end = text[close..]
                .find("}}")
                .ok_or("comment ends before closing delimiter")?;
            at = close + end + 2;
            continue;
        }
        let (tokens, end, trim) = lex(text, inside)?;
        pieces.push(Piece::Action(tokens, open));
        trim_next = trim;
        at = end;
    }
    let rest = if trim_next {
        text[at..].trim_start()
    } else {
        &text[at..]
    };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(())
}

/// Lexes one action from `at` to behind its `}}`.
fn lex(text: &str, mut at: At) -> Result<(Tokens, At, bool), String> {
    let mut tokens = Vec::new();
    loop {
        let rest = &text[at..];
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, text.len() - after.len(), false));
        }
        if rest.trim_start().starts_with("-}}") && rest.starts_with(char::is_whitespace) {
            let end = at + rest.find("-}}").unwrap_or(0) + 3;
            return Ok((tokens, end, true));
        }
        let Some(first) = rest.chars().next() else {
            return Err("unclosed action".into());
        };
        let (token, length) = match first {
            ' ' | '\t' | '\n' | '\r' => (Token::Space, first.len_utf8()),
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '=' => (Token::Assign, 1),
            '"' | '`' | '\'' => quoted(rest, first)?,
            '.' => match word(&rest[1..]) {
                "" => (Token::Dot, 1),
                name => (Token::Field(name.to_owned()), 1 + name.len()),
            },
            '$' => {
                let name = word(&rest[1..]);
                (Token::Variable(name.to_owned()), 1 + name.len())
            }
            '0'..='9' | '+' | '-' => number(rest)?,
            _ => match word(rest) {
                "" => return Err(format!("unexpected {first:?} in command")),
                "true" => (Token::Literal(true.into()), 4),
                "false" => (Token::Literal(false.into()), 5),
                "nil" => (Token::Literal(serde_json::Value::Null), 3),
                name => (Token::Word(name.to_owned()), name.len()),
            },
        };
        tokens.push((token, at));
        at += length;
    }
}

fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> Result<(Token, usize), String> {
    let end = text[1..]
        .find(|c: char| !c.is_alphanumeric() && c != '.')
        .map_or(text.len(), |offset| offset + 1);
    let digits = &text[..end];
    let value = match (digits.parse::<i64>(), digits.parse::<f64>()) {
        (Ok(number), _) => number.into(),
        (_, Ok(number)) => number.into(),
        _ => return Err(format!("bad number syntax: {digits:?}")),
    };
    Ok((Token::Literal(value), end))
}

/// A string literal at the start of `text`: its token and its length.
fn quoted(text: &str, quote: char) -> Result<(Token, usize), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let end = at + 1;
            let mut letters = value.chars();
            return match (quote, letters.next(), letters.next()) {
                ('\'', Some(letter), None) => Ok((Token::Literal(u32::from(letter).into()), end)),
                ('\'', _, _) => Err(format!("malformed character constant: {}", &text[..end])),
                _ => Ok((Token::Literal(value.into()), end)),
            };
        }
        if c != '\\' || quote == '`' {
            value.push(c);
            continue;
        }
        match chars.next().map(|(_, c)| c) {
            Some('n') => value.push('\n'),
            Some('t') => value.push('\t'),
            Some('r') => value.push('\r'),
            Some(c @ ('\\' | '"' | '\'')) => value.push(c),
            _ => return Err("invalid syntax in quoted string".into()),
        }
    }
    Err("unterminated quoted string".into())
}

enum Ended {
    Eof,
    End,
    /// What follows the word: nothing, or `if ...`.
    Else(Tokens),
}

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
    depth: usize,
}

impl Parser {
    fn list(&mut self) -> Result<(Vec<Node>, Ended), String> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, at) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, at) => (strip(tokens), at),
            };
            let keyword = match tokens.first() {
                Some((Token::Word(word), _)) => word.as_str(),
                _ => "",
            };
            match keyword {
                "end" => return Ok((nodes, Ended::End)),
                "else" => return Ok((nodes, Ended::Else(strip(tokens[1..].to_vec())))),
                "if" | "with" | "range" => {
                    let keyword = keyword.to_owned();
                    nodes.push(self.block(&keyword, strip(tokens[1..].to_vec()), at)?);
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                "define" | "template" | "block" => return Err(format!("{{{{{keyword}}}}} is not supported")),
                _ => {
                    let (mut variables, rest) = declared(tokens)?;
                    if variables.len() > 1 {
                        return Err("too many declarations in command".into());
                    }
                    nodes.push(Node::Action(variables.pop(), pipeline(&rest, at, "command")?));
                }
            }
        }
        Ok((nodes, Ended::Eof))
    }

    fn block(&mut self, keyword: &str, tokens: Tokens, at: At) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err("blocks are nested too deeply".into());
        }
        let (variables, rest) = declared(tokens)?;
        let mut over = pipeline(&rest, at, keyword)?;
        let (body, end) = self.list()?;
        let otherwise = match end {
            Ended::End => Vec::new(),
            Ended::Eof => return Err("unexpected EOF".into()),
            Ended::Else(tokens) if tokens.is_empty() => match self.list()? {
                (nodes, Ended::End) => nodes,
                (_, Ended::Eof) => return Err("unexpected EOF".into()),
                (_, Ended::Else(_)) => return Err("expected end; found {{else}}".into()),
            },
            Ended::Else(tokens) => match tokens.first() {
                // The one {{end}} closes both.
                Some((Token::Word(word), _)) if word == keyword => {
                    vec![self.block(keyword, strip(tokens[1..].to_vec()), at)?]
                }
                _ => return Err("unexpected token in {{else}}".into()),
            },
        };
        self.depth -= 1;
        if keyword == "range" {
            return Ok(Node::Range {
                variables,
                over,
                body,
                otherwise,
            });
        }
        let node = if keyword == "if" { Node::If } else { Node::With };
        if let Some(name) = variables.into_iter().next() {
            // A declared variable stays visible in the block; as a declaration before it, it also is.
            let value = std::mem::replace(
                &mut over,
                vec![Call {
                    words: vec![Operand::Variable(
                        name.trim_start_matches(':').to_owned(),
                        Vec::new(),
                    )],
                    at,
                }],
            );
            let declare = Node::Action(Some(name), value);
            let always = Call {
                words: vec![Operand::Literal(true.into())],
                at,
            };
            return Ok(Node::If(
                vec![always],
                vec![declare, node(over, body, otherwise)],
                Vec::new(),
            ));
        }
        Ok(node(over, body, otherwise))
    }
}

fn strip(mut tokens: Tokens) -> Tokens {
    while matches!(tokens.last(), Some((Token::Space, _))) {
        tokens.pop();
    }
    let start = tokens
        .iter()
        .take_while(|(token, _)| *token == Token::Space)
        .count();
    tokens.split_off(start)
}

/// Splits `$a, $b := rest`. A name that is declared and not only set begins with `:`.
fn declared(tokens: Tokens) -> Result<(Vec<String>, Tokens), String> {
    let Some(at) = tokens
        .iter()
        .position(|(token, _)| matches!(token, Token::Declare | Token::Assign))
    else {
        return Ok((Vec::new(), tokens));
    };
    let mark = if tokens[at].0 == Token::Declare { ":" } else { "" };
    let mut names = Vec::new();
    for (token, _) in &tokens[..at] {
        match token {
            Token::Variable(name) => names.push(format!("{mark}{name}")),
            Token::Space | Token::Comma => {}
            _ => return Err("unexpected token before :=".into()),
        }
    }
    Ok((names, strip(tokens[at + 1..].to_vec())))
}

fn pipeline(tokens: &[(Token, At)], at: At, what: &str) -> Result<Pipeline, String> {
    let mut rest = tokens;
    let calls = calls(&mut rest, at, 0)?;
    if !rest.is_empty() {
        return Err("unexpected right paren".into());
    }
    if calls.iter().any(|call| call.words.is_empty()) {
        return Err(format!("missing value for {what}"));
    }
    Ok(calls)
}

/// Reads commands up to the end or an unmatched `)`.
fn calls(tokens: &mut &[(Token, At)], at: At, depth: usize) -> Result<Pipeline, String> {
    if depth > DEPTH_LIMIT {
        return Err("parentheses are nested too deeply".into());
    }
    let mut calls = vec![Call {
        words: Vec::new(),
        at,
    }];
    let mut glued = false;
    while let Some(((token, at), after)) = tokens.split_first() {
        if *token == Token::Close {
            break;
        }
        *tokens = after;
        let Some(call) = calls.last_mut() else { break };
        if call.words.is_empty() {
            call.at = *at;
        }
        match token {
            Token::Field(name) if glued => match call.words.last_mut() {
                Some(Operand::Dot(path) | Operand::Variable(_, path) | Operand::Group(_, path)) => {
                    path.push((name.clone(), *at));
                }
                _ => return Err(format!("unexpected .{name} after term")),
            },
            Token::Field(name) => call.words.push(Operand::Dot(vec![(name.clone(), *at)])),
            Token::Dot => call.words.push(Operand::Dot(Vec::new())),
            Token::Variable(name) => call.words.push(Operand::Variable(name.clone(), Vec::new())),
            Token::Word(name) if super::functions::exists(name) => {
                call.words.push(Operand::Function(name.clone(), *at));
            }
            Token::Word(name) => return Err(format!("function {name:?} not defined")),
            Token::Literal(value) => call.words.push(Operand::Literal(value.clone())),
            Token::Pipe => calls.push(Call {
                words: Vec::new(),
                at: *at,
            }),
            Token::Open => {
                let inner = self::calls(tokens, *at, depth + 1)?;
                match tokens.split_first() {
                    Some(((Token::Close, _), after)) => *tokens = after,
                    _ => return Err("unclosed left paren".into()),
                }
                if inner.iter().any(|call| call.words.is_empty()) {
                    return Err("missing value for parenthesized pipeline".into());
                }
                call.words.push(Operand::Group(inner, Vec::new()));
            }
            Token::Space => {}
            Token::Comma | Token::Declare | Token::Assign | Token::Close => {
                return Err("unexpected token in operand".into());
            }
        }
        glued = !matches!(token, Token::Space | Token::Pipe);
    }
    Ok(calls)
}
