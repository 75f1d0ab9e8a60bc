(** The checker as OCaml: Z and positive are Zarith's integers. *)

From Coq Require Import ZArith QArith Extraction ExtrOcamlBasic ExtrOcamlZBigInt.
From Moduli Require Import Numbers Activations Networks Terms Slack Checker Fewest.

(* Beside those of ExtrOcamlZBigInt: equality, and the division by a greatest common divisor. *)
Extract Constant Pos.eqb => "Big_int_Z.eq_big_int".
Extract Constant Z.ggcd => "Big_int_Z.(fun a b ->
  let g = gcd_big_int a b in
  if sign_big_int g = 0 then (g, (zero_big_int, zero_big_int))
  else (g, (div_big_int a g, div_big_int b g)))".

Extraction "checker.ml" verdict_of has_fewest all_defined.
