//! Rewrites sources so that they have every mutant in them, each behind its switch.
//!
//! | in the source | becomes |
//! | --- | --- |
//! | `a < b` | `(if switch { a <= b } else { a < b })`: another operator (`operators`) |
//! | `!a` | `(switch == (a))` |
//! | a guard of a `match`, `if g` | `if (!switch && (g))`, and `if (switch \|\| (g))` |
//! | an arm before a last `_` | the arm with the guard `if !switch`: it falls through to `_` |
//! | a function | one that begins with `if switch { return 0; }`: a value that its type has (`values`) |
//!
//! Left alone: tests; what is computed while compiling (constants, patterns, types); what is inside macros;
//! `let` chains, whose `&&` cannot be another operator (their parts are changed); `Debug`.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, Literal, Span, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{Arm, Attribute, BinOp, Block, Expr, Pat, Signature, Stmt, Type, UnOp, parse_quote};

use crate::switch;

mod operators;
#[cfg(test)]
mod tests;
mod values;

/// One change of the code.
pub struct Mutant {
    /// What its switch is asked for in this build.
    pub number: usize,
    /// Its file in the checkout, and the line there.
    pub file: String,
    pub line: usize,
    /// Module, type, function, and the change. There are no lines in it: it lasts as long as the code that it is about.
    pub name: String,
}

impl Mutant {
    /// Whether it is one of those that somebody asks for, by a part of its file's path or of its name; nothing asks for all.
    pub fn is_one_of(&self, what: &[String]) -> bool {
        what.is_empty()
            || what
                .iter()
                .any(|part| self.file.contains(part.as_str()) || self.name.contains(part.as_str()))
    }
}

/// Rewrites one source after the other, and numbers the mutants.
pub struct Mutator<'a> {
    left_out: &'a BTreeSet<String>,
    mutants: Vec<Mutant>,
    /// How often each name was given: the second of its kind in a function is "#2".
    names: BTreeMap<String, usize>,
    file: String,
    /// Module, type, function: where the visit is.
    path: Vec<String>,
}

impl<'a> Mutator<'a> {
    /// A mutator of everything but the mutants of these names.
    pub fn leaving_out(left_out: &'a BTreeSet<String>) -> Self {
        Self {
            left_out,
            mutants: Vec::new(),
            names: BTreeMap::new(),
            file: String::new(),
            path: Vec::new(),
        }
    }

    /// The source of a module with its mutants.
    pub fn mutate(&mut self, file: &str, module: &str, text: &str) -> syn::Result<String> {
        let mut source = syn::parse_file(text)?;
        file.clone_into(&mut self.file);
        self.path = vec![module.to_owned()];
        self.visit_file_mut(&mut source);
        Ok(prettyplease::unparse(&source))
    }

    pub fn into_mutants(self) -> Vec<Mutant> {
        self.mutants
    }

    /// The switch of a new mutant; none if it is left out.
    fn switch(&mut self, at: Span, change: &str) -> Option<Expr> {
        let mut name = format!("{}: {change}", self.path.join("::"));
        let times = self.names.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            name = format!("{name} #{times}");
        }
        if self.left_out.contains(&name) {
            return None;
        }
        let number = self.mutants.len();
        self.mutants.push(Mutant {
            number,
            file: self.file.clone(),
            line: at.start().line,
            name,
        });
        let function = Ident::new(switch::NAME, Span::call_site());
        let number = Literal::usize_unsuffixed(number);
        Some(parse_quote!(crate::#function(#number)))
    }

    /// What is below a module, a type or a function.
    fn inside(&mut self, name: String, visit: impl FnOnce(&mut Self)) {
        self.path.push(name);
        visit(self);
        self.path.pop();
    }

    fn function(&mut self, signature: &Signature, block: &mut Block) {
        // It may be called while compiling, where there is no environment.
        if signature.constness.is_some() {
            return;
        }
        let at = signature.ident.span();
        let instead = values::instead_of(&signature.output, block);
        self.inside(signature.ident.to_string(), |this| {
            visit_mut::visit_block_mut(this, block);
            let mut returns: Vec<Stmt> = Vec::new();
            for value in instead {
                let (change, early): (_, Expr) = match value {
                    Some(value) => (
                        format!("returns {}", spelled(&value)),
                        parse_quote!(return #value),
                    ),
                    None => ("does nothing".to_owned(), parse_quote!(return)),
                };
                if let Some(on) = this.switch(at, &change) {
                    returns.push(parse_quote!(if #on { #early; }));
                }
            }
            block.stmts.splice(0..0, returns);
        });
    }

    fn guard(&mut self, guard: &mut Expr) {
        let (at, text) = (guard.span(), source(guard));
        self.visit_expr_mut(guard);
        if has_let(guard) {
            return;
        }
        let mut now: Expr = parse_quote!((#guard));
        if let Some(on) = self.switch(at, &format!("guard is false: {text}")) {
            now = parse_quote!((!#on && #now));
        }
        if let Some(on) = self.switch(at, &format!("guard is true: {text}")) {
            now = parse_quote!((#on || #now));
        }
        *guard = now;
    }
}

impl VisitMut for Mutator<'_> {
    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.inside(module.ident.to_string(), |this| {
                visit_mut::visit_item_mod_mut(this, module);
            });
        }
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        let of = block
            .trait_
            .as_ref()
            .and_then(|(_, path, _)| path.segments.last());
        let is_debug = of.is_some_and(|of| of.ident == "Debug");
        if !is_for_tests(&block.attrs) && !is_debug {
            self.inside(name_of(&block.self_ty), |this| {
                visit_mut::visit_item_impl_mut(this, block);
            });
        }
    }

    fn visit_item_trait_mut(&mut self, block: &mut syn::ItemTrait) {
        self.inside(block.ident.to_string(), |this| {
            visit_mut::visit_item_trait_mut(this, block);
        });
    }

    fn visit_item_fn_mut(&mut self, function: &mut syn::ItemFn) {
        if !is_for_tests(&function.attrs) {
            self.function(&function.sig, &mut function.block);
        }
    }

    fn visit_impl_item_fn_mut(&mut self, function: &mut syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            self.function(&function.sig, &mut function.block);
        }
    }

    fn visit_trait_item_fn_mut(&mut self, function: &mut syn::TraitItemFn) {
        if let Some(block) = &mut function.default {
            self.function(&function.sig, block);
        }
    }

    fn visit_local_mut(&mut self, local: &mut syn::Local) {
        if !is_for_tests(&local.attrs) {
            visit_mut::visit_local_mut(self, local);
        }
    }

    fn visit_item_const_mut(&mut self, _: &mut syn::ItemConst) {}

    fn visit_item_static_mut(&mut self, _: &mut syn::ItemStatic) {}

    fn visit_impl_item_const_mut(&mut self, _: &mut syn::ImplItemConst) {}

    fn visit_trait_item_const_mut(&mut self, _: &mut syn::TraitItemConst) {}

    fn visit_item_enum_mut(&mut self, _: &mut syn::ItemEnum) {}

    fn visit_expr_const_mut(&mut self, _: &mut syn::ExprConst) {}

    fn visit_type_mut(&mut self, _: &mut Type) {}

    fn visit_pat_mut(&mut self, _: &mut Pat) {}

    fn visit_expr_match_mut(&mut self, expression: &mut syn::ExprMatch) {
        self.visit_expr_mut(&mut expression.expr);
        let last_takes_all = expression.arms.last().is_some_and(takes_all);
        let last = expression.arms.len().saturating_sub(1);
        for (place, arm) in expression.arms.iter_mut().enumerate() {
            if is_for_tests(&arm.attrs) {
                continue;
            }
            if let Some((_, guard)) = &mut arm.guard {
                self.guard(guard);
            } else if last_takes_all && place < last {
                let change = format!("no arm {}", source(&arm.pat));
                if let Some(on) = self.switch(arm.pat.span(), &change) {
                    arm.guard = Some((parse_quote!(if), Box::new(parse_quote!(!#on))));
                }
            }
            self.visit_expr_mut(&mut arm.body);
        }
    }

    fn visit_expr_mut(&mut self, expression: &mut Expr) {
        match expression {
            Expr::Binary(binary) => {
                let others = if is_let_chain(binary) {
                    Vec::new()
                } else {
                    operators::instead_of(&binary.op)
                };
                let (at, text, operator) = (
                    binary.op.span(),
                    source(binary),
                    binary.op.to_token_stream(),
                );
                visit_mut::visit_expr_binary_mut(self, binary);
                let original = binary.clone();
                for other in others {
                    let change = format!("{operator} -> {} in {text}", other.to_token_stream());
                    if let Some(on) = self.switch(at, &change) {
                        let mut changed = original.clone();
                        changed.op = other;
                        *expression = parse_quote!((if #on { #changed } else { #expression }));
                    }
                }
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let (at, text) = (unary.op.span(), source(unary));
                visit_mut::visit_expr_unary_mut(self, unary);
                if let Some(on) = self.switch(at, &format!("no ! in {text}")) {
                    let inner = &unary.expr;
                    *expression = parse_quote!((#on == (#inner)));
                }
            }
            _ => visit_mut::visit_expr_mut(self, expression),
        }
    }
}

/// `_`, which any value matches.
fn takes_all(arm: &Arm) -> bool {
    arm.guard.is_none() && matches!(arm.pat, Pat::Wild(_))
}

/// Whether this is there for tests alone. `cfg(not(test))` counts as such, too: it is nowhere.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    fn names_test(tokens: proc_macro2::TokenStream) -> bool {
        tokens.into_iter().any(|token| match token {
            TokenTree::Ident(word) => word == "test",
            TokenTree::Group(group) => names_test(group.stream()),
            _ => false,
        })
    }
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg") && names_test(attribute.meta.to_token_stream())
    })
}

fn is_let_chain(binary: &syn::ExprBinary) -> bool {
    matches!(binary.op, BinOp::And(_)) && (has_let(&binary.left) || has_let(&binary.right))
}

/// Whether an operand of this chain of conditions is a `let`.
fn has_let(expression: &Expr) -> bool {
    struct Search(bool);
    impl<'ast> Visit<'ast> for Search {
        fn visit_expr(&mut self, expression: &'ast Expr) {
            match expression {
                Expr::Let(_) => self.0 = true,
                Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => {
                    visit::visit_expr_binary(self, binary);
                }
                _ => {}
            }
        }
    }
    let mut search = Search(false);
    search.visit_expr(expression);
    search.0
}

/// A type without its path and its parameters.
fn name_of(of: &Type) -> String {
    match of {
        Type::Path(of) => of.path.segments.last().map(|last| last.ident.to_string()),
        Type::Reference(of) => Some(name_of(&of.elem)),
        _ => None,
    }
    .unwrap_or_else(|| in_one_line(&of.to_token_stream().to_string()))
}

/// How the source spells it, in one line.
fn source(node: &impl ToTokens) -> String {
    let text = node.span().source_text();
    in_one_line(&text.unwrap_or_else(|| node.to_token_stream().to_string()))
}

/// A value that no source has.
fn spelled(value: &Expr) -> String {
    let tokens = value.to_token_stream().to_string();
    tokens.replace(" :: ", "::").replace(" (", "(")
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
