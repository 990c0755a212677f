//! Durations, and arithmetic with them.

use super::{MAX_DEPTH, MAX_HEIGHT, Parsed, Parser, Stop};
use crate::ast::{BinaryOp, DurationExpr, Span};
use crate::lexer::Token;

/// Where a duration stands. What is said of something else in its place, or anywhere within it, depends on that alone.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Offset,
    Range,
    Step,
}

impl Place {
    /// What it stands in, and what may stand there.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Offset => ("offset", "number, duration, step(), or range()"),
            Self::Range => ("subquery or range selector", "number, duration, step(), or range()"),
            Self::Step => ("subquery selector", "number, duration, step(), range(), or \"]\""),
        }
    }
}

impl Parser<'_> {
    fn no_duration<T>(&mut self, place: Place) -> Parsed<T> {
        let (context, expected) = place.words();
        self.unexpected(context, expected)
    }

    /// What stands in brackets: a number of seconds, a duration or arithmetic.
    pub(super) fn duration_expression(&mut self, floor: u8, place: Place) -> Parsed<DurationExpr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let span = self.peek().span;
            self.note(span, format!("expression is nested more than {MAX_DEPTH} levels deep"));
            return Err(Stop);
        }
        let mut lhs = self.duration_operand(place)?;
        while let Some(op) = self.binary_operator() {
            let arithmetic = matches!(
                op,
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Pow
            );
            if !arithmetic || op.precedence() <= floor {
                break;
            }
            let sign = self.advance().span;
            self.count_duration_operator(sign)?;
            let below = if op == BinaryOp::Pow {
                op.precedence() - 1
            } else {
                op.precedence()
            };
            let rhs = self.duration_expression(below, place)?;
            if let Some(why) = by_zero(op, &rhs) {
                self.note(sign, why);
            }
            lhs = binary(op, lhs, rhs);
        }
        self.depth -= 1;
        Ok(lhs)
    }

    /// All operators of one duration count, since each may lie within the ones before.
    fn count_duration_operator(&mut self, span: Span) -> Parsed<()> {
        self.duration_operators += 1;
        if self.duration_operators <= MAX_HEIGHT {
            return Ok(());
        }
        self.note(span, format!("duration has more than {MAX_HEIGHT} operators"));
        Err(Stop)
    }

    /// What stands in brackets; a literal must be positive, the value of arithmetic is known to the planner only.
    pub(super) fn positive_duration(&mut self, place: Place) -> Parsed<DurationExpr> {
        self.duration_operators = 0;
        let duration = self.duration_expression(0, place)?;
        if let DurationExpr::Seconds { value, span, .. } = &duration
            && *value <= 0.0
        {
            self.note(*span, "duration must be greater than 0");
        }
        Ok(duration)
    }

    fn duration_operand(&mut self, place: Place) -> Parsed<DurationExpr> {
        let item = self.peek();
        if item.token == Token::Operator && matches!(self.text(item), "+" | "-") {
            self.advance();
            let negative = self.text(item) == "-";
            let operand = self.duration_expression(BinaryOp::Mul.precedence(), place)?;
            return Ok(signed(negative, item.span.start, operand));
        }
        self.duration_atom(place)
    }

    /// A duration after `offset`: operators that follow belong to the expression around it.
    pub(super) fn offset_duration(&mut self) -> Parsed<DurationExpr> {
        self.duration_operators = 0;
        let item = self.peek();
        let has_sign = item.token == Token::Operator && matches!(self.text(item), "+" | "-");
        if has_sign {
            self.advance();
        }
        let operand = self.duration_atom(Place::Offset)?;
        Ok(match has_sign {
            true => signed(self.text(item) == "-", item.span.start, operand),
            false => operand,
        })
    }

    fn duration_atom(&mut self, place: Place) -> Parsed<DurationExpr> {
        let item = self.peek();
        match item.token {
            Token::Number | Token::Duration => {
                self.advance();
                let value = self.number(item);
                // The nanoseconds of 64 bits, as Prometheus holds a duration.
                if value.is_nan() || value.abs() > 9_223_372_036.0 {
                    self.note(item.span, "duration out of range");
                }
                Ok(DurationExpr::Seconds {
                    value,
                    duration: item.token == Token::Duration,
                    span: item.span,
                })
            }
            Token::LeftParen => {
                self.advance();
                let inner = self.duration_expression(0, place)?;
                if !self.eat(Token::RightParen) {
                    return self.no_duration(place);
                }
                Ok(match inner {
                    DurationExpr::Seconds { .. } | DurationExpr::Paren(_) => inner,
                    inner => DurationExpr::Paren(Box::new(inner)),
                })
            }
            Token::Keyword => self.duration_call(place),
            _ => self.no_duration(place),
        }
    }

    fn duration_call(&mut self, place: Place) -> Parsed<DurationExpr> {
        let item = self.peek();
        let word = self.word(item);
        if !matches!(word.as_str(), "step" | "range" | "min_of" | "max_of") {
            return self.no_duration(place);
        }
        self.advance();
        if !self.eat(Token::LeftParen) {
            return self.no_duration(place);
        }
        if matches!(word.as_str(), "step" | "range") {
            let close = self.peek().span.end;
            if !self.eat(Token::RightParen) {
                return self.no_duration(place);
            }
            let span = Span::new(item.span.start, close);
            return Ok(match word.as_str() {
                "step" => DurationExpr::Step(span),
                _ => DurationExpr::Range(span),
            });
        }
        let first = Box::new(self.duration_expression(0, place)?);
        if !self.eat(Token::Comma) {
            return self.no_duration(place);
        }
        let second = Box::new(self.duration_expression(0, place)?);
        if !self.eat(Token::RightParen) {
            return self.no_duration(place);
        }
        Ok(match word.as_str() {
            "min_of" => DurationExpr::Min(first, second),
            _ => DurationExpr::Max(first, second),
        })
    }
}

/// Why nothing can be divided by a number, if so.
fn by_zero(op: BinaryOp, divisor: &DurationExpr) -> Option<&'static str> {
    match (op, divisor) {
        (BinaryOp::Div, DurationExpr::Seconds { value: 0.0, .. }) => Some("division by zero"),
        (BinaryOp::Mod, DurationExpr::Seconds { value: 0.0, .. }) => Some("modulo by zero"),
        _ => None,
    }
}

fn binary(op: BinaryOp, lhs: DurationExpr, rhs: DurationExpr) -> DurationExpr {
    let lhs = match lhs {
        // Without its parentheses the sign would be that of the power.
        DurationExpr::Seconds { value, .. } if op == BinaryOp::Pow && value.is_sign_negative() => {
            DurationExpr::Paren(Box::new(lhs))
        }
        lhs => lhs,
    };
    DurationExpr::Binary {
        op,
        lhs: Box::new(lhs),
        rhs: Box::new(rhs),
    }
}

fn signed(negative: bool, start: usize, operand: DurationExpr) -> DurationExpr {
    match operand {
        DurationExpr::Seconds { value, duration, span } => DurationExpr::Seconds {
            value: if negative { -value } else { value },
            duration,
            span: Span::new(start, span.end),
        },
        operand if negative => DurationExpr::Unary {
            negative,
            start,
            expr: Box::new(operand),
        },
        operand => operand,
    }
}
