//! Which mutant does an error of the compiler come from? The smallest of those whose code has the place in it.

use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Expr, UnOp};

use crate::switch;

/// The code of each mutant in a rewritten source.
pub struct Regions(Vec<Region>);

struct Region {
    mutant: usize,
    start: LineColumn,
    end: LineColumn,
}

impl Regions {
    pub fn of(text: &str) -> syn::Result<Self> {
        let mut regions = Self(Vec::new());
        regions.visit_file(&syn::parse_file(text)?);
        Ok(regions)
    }

    /// The mutant at a place, as the compiler counts: lines and columns from one.
    pub fn mutant_at(&self, line: usize, column: usize) -> Option<usize> {
        let at = LineColumn {
            line,
            column: column.saturating_sub(1),
        };
        self.0
            .iter()
            .filter(|region| region.start <= at && at < region.end)
            // Of two around one place, the one that begins later is inside the other.
            .max_by_key(|region| (region.start, std::cmp::Reverse(region.end)))
            .map(|region| region.mutant)
    }

    fn add(&mut self, mutant: Option<usize>, span: Span) {
        self.0.extend(mutant.map(|mutant| Region {
            mutant,
            start: span.start(),
            end: span.end(),
        }));
    }
}

impl<'ast> Visit<'ast> for Regions {
    fn visit_expr_if(&mut self, expression: &'ast syn::ExprIf) {
        self.add(switched(&expression.cond), expression.span());
        visit::visit_expr_if(self, expression);
    }

    fn visit_expr_binary(&mut self, expression: &'ast syn::ExprBinary) {
        self.add(switched(&expression.left), expression.span());
        visit::visit_expr_binary(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        let guard = arm.guard.as_ref().and_then(|(_, guard)| switched(guard));
        self.add(guard, arm.span());
        visit::visit_arm(self, arm);
    }
}

/// The mutant that this is the switch of.
fn switched(expression: &Expr) -> Option<usize> {
    match expression {
        Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => switched(&unary.expr),
        Expr::Call(call) => {
            let Expr::Path(function) = &*call.func else {
                return None;
            };
            let last = function.path.segments.last()?;
            match (last.ident == switch::NAME, call.args.first()?) {
                (
                    true,
                    Expr::Lit(syn::ExprLit {
                        lit: syn::Lit::Int(number),
                        ..
                    }),
                ) => number.base10_parse().ok(),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::Regions;

    #[test]
    fn the_innermost_mutant_is_to_blame() {
        let text = "fn f() -> u8 {\n    if crate::__mutant(2) {\n        return 0;\n    }\n    \
                    (if crate::__mutant(1) { a - b } else { a + (crate::__mutant(0) == (c)) })\n}\n";
        let regions = Regions::of(text).unwrap();
        assert_eq!(regions.mutant_at(3, 16), Some(2));
        assert_eq!(regions.mutant_at(5, 30), Some(1));
        let inner = text.lines().nth(4).unwrap().find("(c)").unwrap() + 2;
        assert_eq!(regions.mutant_at(5, inner), Some(0));
        assert_eq!(regions.mutant_at(1, 4), None);
    }
}
