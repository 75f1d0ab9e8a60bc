#!/usr/bin/env bash
# Checks the proofs with Rocq (coqc), extracts the checker, compiles it to build/moduli-verified.
# Fails where a theorem rests on more than the axioms of the real numbers of the standard library.
# Needs: coqc 8.16 or later, ocamlfind, ocamlopt, zarith. Debian: coq ocaml-nox ocaml-findlib libzarith-ocaml-dev.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=${1:-$here/build}
theories="Numbers Activations Exponential Networks Terms Slack Checker Shallow Sussmann Fewest Extraction Assumptions"
known="ClassicalDedekindReals.sig_forall_dec ClassicalDedekindReals.sig_not_dec
FunctionalExtensionality.functional_extensionality_dep Classical_Prop.classic"

mkdir -p "$build"
cp "$here"/*.v "$here"/*.ml "$build"
cd "$build"
if grep -nwE 'Admitted|admit|Axiom|Axioms|Parameter|Parameters|Conjecture|Abort|Unset|bypass_check' ./*.v; then
  echo "build.sh: a proof is left out, or something is assumed" >&2
  exit 1
fi
for theory in $theories; do
  coqc -q -Q . Moduli "$theory.v" > "$theory.out"
done

# Names of axioms stand at the beginning of a line, before a colon or alone with the colon below.
cat Assumptions.out
found=$(sed -nE 's/^([A-Za-z_][A-Za-z0-9_.]*)( *:.*)?$/\1/p' Assumptions.out | sort -u | grep -vx Axioms || true)
[ "$(grep -c '^Axioms:$' Assumptions.out)" = 4 ] || { echo "build.sh: four theorems were to be printed" >&2; exit 1; }
for name in $found; do
  grep -qw -- "$name" <<< "$known" || { echo "build.sh: unknown assumption $name" >&2; exit 1; }
done

ocamlfind ocamlopt -w -a -package zarith -c checker.mli checker.ml
ocamlfind ocamlopt -package zarith -linkpkg checker.cmx sha256.ml main.ml -o moduli-verified
echo "built: $build/moduli-verified"
