(* moduli-verified FILE: reads a proof as `moduli export-proof` writes it, and asks the verified
   checker. Trusted beside the theorem: that this file builds the proof that the text says. *)

module Integer = Z
module Rational = Q
open Checker

exception Unreadable of string

let unreadable what at = raise (Unreadable (Printf.sprintf "%s at byte %d" what at))

let contents path =
  let channel = open_in_bin path in
  Fun.protect ~finally:(fun () -> close_in channel)
    (fun () -> really_input_string channel (in_channel_length channel))

(* Words between blanks. *)
type source = { text : string; mutable at : int }

let blank c = c = ' ' || c = '\n'

let word source =
  let length = String.length source.text in
  while source.at < length && blank source.text.[source.at] do source.at <- source.at + 1 done;
  let first = source.at in
  while source.at < length && not (blank source.text.[source.at]) do source.at <- source.at + 1 done;
  if source.at = first then unreadable "the file ends" first;
  String.sub source.text first (source.at - first)

let expect source wanted =
  let at = source.at in
  let found = word source in
  if found <> wanted then unreadable (Printf.sprintf "%S instead of %S" found wanted) at

(* Digits without a sign, or with a minus. *)
let digits good s =
  let from = if s <> "" && s.[0] = '-' then 1 else 0 in
  let ok = ref (String.length s > from) in
  String.iteri (fun i c -> if i >= from && not (good c) then ok := false) s;
  !ok

(* A count, decimal: of layers, rows, columns, links. *)
let count source =
  let at = source.at in
  let s = word source in
  let decimal c = c >= '0' && c <= '9' in
  match if digits decimal s && s.[0] <> '-' then int_of_string_opt ("0u" ^ s) else None with
  | Some n when n >= 0 && n <= 1 lsl 24 -> n
  | _ -> unreadable (Printf.sprintf "%S is no count" s) at

(* An integer, hexadecimal. *)
let integer source =
  let at = source.at in
  let s = word source in
  let hexadecimal c = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') in
  if digits hexadecimal s then Integer.of_string_base 16 s
  else unreadable (Printf.sprintf "%S is no integer" s) at

let positive source =
  let at = source.at in
  let z = integer source in
  if Integer.sign z > 0 then z else unreadable "a denominator is not positive" at

let rational source =
  let qnum = integer source in
  { qnum; qden = positive source }

let natural n =
  let rec next n found = if n = 0 then found else next (n - 1) (S found) in
  next n O

let rec int_of = function O -> 0 | S n -> 1 + int_of n

(* Elements in the order of the text; List.init may take another one. *)
let several n read =
  let rec next k found = if k = 0 then List.rev found else next (k - 1) (read () :: found) in
  next n []

(* The rational that a float is. *)
let of_float x =
  let q = Rational.of_float x in
  { qnum = Rational.num q; qden = Rational.den q }

(* A float in the digits that moduli writes. *)
let decimal s at =
  let good c = (c >= '0' && c <= '9') || c = '.' || c = 'e' || c = '-' || c = '+' in
  match if String.for_all good s then float_of_string_opt s else None with
  | Some x when Float.is_finite x -> of_float x
  | _ -> unreadable (Printf.sprintf "%S is no number" s) at

(* A name as moduli writes it, such as tanh or clip(0.0,6.0). *)
let activation_of name at =
  let whole n = { qnum = Integer.of_int n; qden = Integer.one } in
  let kind, inside =
    match String.index_opt name '(' with
    | Some i when name.[String.length name - 1] = ')' ->
        let inner = String.sub name (i + 1) (String.length name - i - 2) in
        (String.sub name 0 i, List.map (fun s -> decimal s at) (String.split_on_char ',' inner))
    | _ -> (name, [])
  in
  match kind, inside with
  | "identity", [] -> Kinked (whole 1)
  | "relu", [] -> Kinked (whole 0)
  | "abs", [] -> Kinked (whole (-1))
  | "leaky_relu", [ slope ] -> Kinked slope
  | "clip", [ low; high ] -> Clip (low, high)
  | "tanh", [] -> Tanh
  | "sigmoid", [] -> Sigmoid
  | "erf", [] -> Other Erf
  | "sin", [] -> Sine
  | "gelu", [] -> Other Gelu
  | "gelu_tanh", [] -> Other GeluTanh
  | "silu", [] -> Other Silu
  | "softplus", [] -> Softplus
  | "hardswish", [] -> Other Hardswish
  | "mish", [] -> Other Mish
  | "elu", [ alpha ] -> Other (Elu alpha)
  | _ -> unreadable (Printf.sprintf "%S is no activation" name) at

(* Rows, columns, the denominator of weights, that of biases; then a line for each row: its bias and
   its weights. *)
let rows source =
  expect source "rows";
  let height = count source in
  let width = count source in
  let below = positive source in
  let below_biases = positive source in
  several height (fun () ->
    let bias = { qnum = integer source; qden = below_biases } in
    (several width (fun () -> { qnum = integer source; qden = below }), bias))

let named_layer source =
  expect source "layer";
  let at = source.at in
  let name = word source in
  let function0 = activation_of name at in
  (name, { rows = rows source; function0 })

let layer source = snd (named_layer source)

(* A network, and the names of its activations. *)
let network source name =
  expect source name;
  let depth = count source in
  let layers = several depth (fun () -> named_layer source) in
  (List.map fst layers, List.map snd layers)

let link source =
  let at = source.at in
  let kind = word source in
  let place = natural (count source) in
  match kind with
  | "replace" ->
      let units = layer source in
      { place; step = Replace (units, rows source) }
  | "skip" -> { place; step = Skip (rows source) }
  | other -> unreadable (Printf.sprintf "%S is no link" other) at

let links source name =
  expect source name;
  let length = count source in
  several length (fun () -> link source)

(* Digests: SHA-256 of the widths, the activations and the output map as moduli writes them in JSON,
   and of all weights and biases as doubles. It ends with the identity, which has no name there. ------ *)

let double buffer at { qnum; qden } =
  let q = Rational.make qnum qden in
  let x = Rational.to_float q in
  if not (Float.is_finite x && Rational.equal (Rational.of_float x) q) then
    unreadable "a parameter of a network is no double" at;
  Buffer.add_int64_le buffer (Int64.bits_of_float x)

let digest (names, layers) inputs output_map at =
  let hidden, last =
    match List.rev names with
    | last :: hidden -> (List.rev hidden, last)
    | [] -> unreadable "a network has no layers" at
  in
  if last <> "identity" then unreadable "the last layer of a network is not affine" at;
  let quoted name = "\"" ^ name ^ "\"" in
  let widths = inputs :: List.map (fun l -> List.length l.rows) layers in
  let buffer = Buffer.create 65536 in
  Printf.bprintf buffer "{\"widths\": [%s], \"activations\": [%s], \"output_map\": %s}"
    (String.concat ", " (List.map string_of_int widths))
    (String.concat ", " (List.map quoted hidden))
    (quoted output_map);
  let layer { rows; _ } =
    List.iter (fun (weights, _) -> List.iter (double buffer at) weights) rows;
    List.iter (fun (_, bias) -> double buffer at bias) rows
  in
  List.iter layer layers;
  "sha256:" ^ Sha256.hex (Buffer.contents buffer)

(* Ranges of the inputs, none for all inputs; and how the box is cut, in preorder. *)
let domain source =
  expect source "domain";
  let length = count source in
  several length (fun () ->
    let low = rational source in
    let high = rational source in
    let product a b = Integer.mul a.qnum b.qden in
    if Integer.lt (product high low) (product low high) then unreadable "an empty range" source.at;
    (Some low, Some high))

let rec cuts source =
  let at = source.at in
  match word source with
  | "whole" -> Whole
  | "halves" ->
      let input = natural (count source) in
      let cut = rational source in
      let below = cuts source in
      Halves (input, cut, below, cuts source)
  | other -> unreadable (Printf.sprintf "%S is no part" other) at

(* An optional word. *)
let says source wanted =
  let at = source.at in
  let found = word source = wanted in
  if not found then source.at <- at;
  found

type claim = { of_large : string; of_small : string; output_map : string; fewest : bool; proof : proof }

let claim source =
  expect source "moduli-proof";
  expect source "1";
  expect source "output-map";
  let output_map = word source in
  if output_map <> "softmax" then ignore (activation_of output_map source.at);
  expect source "inputs";
  let width = count source in
  let inputs = natural width in
  let domain = domain source in
  if domain <> [] && List.length domain <> width then unreadable "the box has other inputs" source.at;
  expect source "cuts";
  let cuts = cuts source in
  expect source "constant";
  let claimed_constant = rational source in
  expect source "growth";
  let claimed_growth = rational source in
  let fewest = says source "fewest" in
  let ((_, large) as named_large) = network source "large" in
  let of_large = digest named_large width output_map source.at in
  let ((_, small) as named_small) = network source "small" in
  let of_small = digest named_small width output_map source.at in
  let large_links = links source "large-links" in
  let small_links = links source "small-links" in
  expect source "end";
  String.iteri (fun i c -> if i >= source.at && not (blank c) then unreadable "text behind the end" i)
    source.text;
  { of_large; of_small; output_map; fewest;
    proof = { inputs; domain; cuts; large; small; large_links; small_links; claimed_constant; claimed_growth } }

(* Printing ----------------------------------------------------------------------------------------- *)

let widths proof net =
  let hidden = List.map (fun l -> string_of_int (List.length l.rows)) net in
  String.concat "-" (string_of_int (int_of proof.inputs) :: hidden)

let exactly { qnum; qden } = Rational.to_string (Rational.make qnum qden)
let about { qnum; qden } = Printf.sprintf "%.6g" (Rational.to_float (Rational.make qnum qden))

let greatest found =
  let larger a { qnum; qden } = Rational.max a (Rational.make qnum qden) in
  Printf.sprintf "%.6g" (Rational.to_float (List.fold_left larger Rational.zero found))

let interval (low, high) =
  let shown = function Some q -> exactly q | None -> "any" in
  Printf.sprintf "[%s, %s]" (shown low) (shown high)

let where = function
  | [] -> "for all inputs x"
  | first :: rest when List.for_all (fun e -> interval e = interval first) rest ->
      Printf.sprintf "for all inputs x with every x_j in %s" (interval first)
  | ranges -> "for all inputs x in " ^ String.concat " x " (List.map interval ranges)

let statement claim =
  let { claimed_constant = constant; claimed_growth = growth; large; small; _ } = claim.proof in
  let bound =
    match Integer.sign constant.qnum, Integer.sign growth.qnum with
    | 0, 0 -> "0"
    | _, 0 -> exactly constant
    | _ -> Printf.sprintf "%s + %s |x|" (exactly constant) (exactly growth)
  in
  Printf.printf "proved: %s, |small(x) - large(x)| <= %s in every output" (where claim.proof.domain)
    bound;
  Printf.printf " (about %s + %s |x|), before the output map %s\n" (about constant) (about growth)
    claim.output_map;
  Printf.printf "small: %s, %s\nlarge: %s, %s\n" (widths claim.proof small) claim.of_small
    (widths claim.proof large) claim.of_large;
  if claim.fewest then
    print_endline "fewest units: no network of one hidden layer of tanh or of sigmoids that is the function of large \
                   has fewer than small";
  if all_defined large && all_defined small then
    print_endline "hypotheses: none about activations"
  else
    print_endline "hypotheses: the laws of the activations that the theorem does not define (README.md)"

let refusal claim verdict =
  let in_links name all left =
    Printf.sprintf "link %d of the %s network does not hold%s" (List.length all - left + 1) name
      (if claim.proof.domain = [] then "" else ", or intervals on the box are too wide to show it")
  in
  match verdict with
  | Proved -> ""
  | BadShape -> "rows of a network do not fit the layer before"
  | BadLargeLink left -> in_links "large" claim.proof.large_links (int_of left)
  | BadSmallLink left -> in_links "small" claim.proof.small_links (int_of left)
  | Different -> "after all links the networks have other widths or activations"
  | TooFar (constant, growth) ->
      Printf.sprintf "the difference is claimed to be at most %s + %s |x|, and %s + %s |x| is proved"
        (about claim.proof.claimed_constant) (about claim.proof.claimed_growth) (greatest constant) (greatest growth)

let fail code why =
  prerr_endline why;
  exit code

(* Exit codes as those of moduli: 0 proved, 1 rejected, 2 usage, 3 no answer, 4 cannot read. *)
let () =
  match Sys.argv with
  | [| _; path |] -> (
      try
        let claim = claim { text = contents path; at = 0 } in
        match verdict_of claim.proof with
        | Proved when claim.fewest && not (has_fewest claim.proof) ->
            fail 1 "rejected: units are claimed to be fewest, and what the links leave is not seen to be irreducible"
        | Proved -> statement claim
        | other -> fail 1 ("rejected: " ^ refusal claim other)
      with
      | Unreadable why | Sys_error why -> fail 4 ("cannot read: " ^ why)
      | Stack_overflow | Out_of_memory -> fail 3 "no answer: out of memory; try ulimit -s unlimited")
  | _ -> fail 2 "usage: moduli-verified FILE, as written by moduli export-proof"
