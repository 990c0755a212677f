//! Durations, and arithmetic with them.

use super::{MAX_DEPTH, Parsed, Parser, Stop};
use crate::ast::{BinaryOp, DurationExpr, Span};
use crate::lexer::Token;

impl Parser<'_> {
    /// What stands in brackets: a number of seconds, a duration or arithmetic.
    pub(super) fn duration_expression(&mut self, floor: u8, context: &str) -> Parsed<DurationExpr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let span = self.peek().span;
            self.note(span, format!("expression is nested more than {MAX_DEPTH} levels deep"));
            return Err(Stop);
        }
        let mut lhs = self.duration_operand(context)?;
        while let Some(op) = self.binary_operator() {
            let arithmetic = matches!(
                op,
                BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Pow
            );
            if !arithmetic || op.precedence() <= floor {
                break;
            }
            self.advance();
            let below = if op == BinaryOp::Pow {
                op.precedence() - 1
            } else {
                op.precedence()
            };
            let rhs = self.duration_expression(below, context)?;
            lhs = DurationExpr::Binary {
                op,
                lhs: Box::new(lhs),
                rhs: Box::new(rhs),
            };
        }
        self.depth -= 1;
        Ok(lhs)
    }

    /// What stands in brackets; a literal must be positive, the value of arithmetic is known to the planner only.
    pub(super) fn positive_duration(&mut self) -> Parsed<DurationExpr> {
        let start = self.peek().span.start;
        let duration = self.duration_expression(0, "subquery selector")?;
        if let DurationExpr::Seconds { value, .. } = &duration
            && *value <= 0.0
        {
            self.note(Span::new(start, self.last_closing), "duration must be greater than 0");
        }
        Ok(duration)
    }

    fn duration_operand(&mut self, context: &str) -> Parsed<DurationExpr> {
        let item = self.peek();
        if item.token == Token::Operator && matches!(self.text(item), "+" | "-") {
            self.advance();
            let negative = self.text(item) == "-";
            let operand = self.duration_expression(BinaryOp::Mul.precedence(), context)?;
            return Ok(negated(negative, operand));
        }
        self.duration_atom(context)
    }

    /// A duration after `offset`: operators that follow belong to the expression around it.
    pub(super) fn offset_duration(&mut self) -> Parsed<DurationExpr> {
        let item = self.peek();
        let signed = item.token == Token::Operator && matches!(self.text(item), "+" | "-");
        if signed {
            self.advance();
        }
        let operand = self.duration_atom("offset")?;
        Ok(if signed {
            negated(self.text(item) == "-", operand)
        } else {
            operand
        })
    }

    fn duration_atom(&mut self, context: &str) -> Parsed<DurationExpr> {
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
                })
            }
            Token::LeftParen => {
                self.advance();
                let inner = self.duration_expression(0, context)?;
                if !self.eat(Token::RightParen) {
                    return self.unexpected(context, "\")\"");
                }
                Ok(DurationExpr::Paren(Box::new(inner)))
            }
            Token::Keyword => self.duration_call(context),
            _ => self.unexpected(context, "number or duration"),
        }
    }

    fn duration_call(&mut self, context: &str) -> Parsed<DurationExpr> {
        let item = self.peek();
        let word = self.word(item);
        if !matches!(word.as_str(), "step" | "range" | "min_of" | "max_of") {
            return self.unexpected(context, "number or duration");
        }
        self.advance();
        if !self.eat(Token::LeftParen) {
            return self.unexpected(context, "\"(\"");
        }
        let expr = if word == "step" {
            DurationExpr::Step
        } else if word == "range" {
            DurationExpr::Range
        } else {
            let first = Box::new(self.duration_expression(0, context)?);
            if !self.eat(Token::Comma) {
                return self.unexpected(context, "\",\"");
            }
            let second = Box::new(self.duration_expression(0, context)?);
            if word == "min_of" {
                DurationExpr::Min(first, second)
            } else {
                DurationExpr::Max(first, second)
            }
        };
        if !self.eat(Token::RightParen) {
            return self.unexpected(context, "\")\"");
        }
        Ok(expr)
    }
}

fn negated(negative: bool, operand: DurationExpr) -> DurationExpr {
    match operand {
        DurationExpr::Seconds { value, duration } => DurationExpr::Seconds {
            value: if negative { -value } else { value },
            duration,
        },
        operand if negative => DurationExpr::Unary {
            negative,
            expr: Box::new(operand),
        },
        operand => operand,
    }
}
