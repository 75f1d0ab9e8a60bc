(** The checker of certificates, and the theorem that it is sound.

    A proof holds two networks, links that change one hidden layer of either, and a claimed bound of
    the difference. [accepts] follows all links, compares what is left, and adds up what constants
    and roundings cost. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
From Moduli Require Import Numbers Activations Networks Terms Slack.
Import ListNotations.
Open Scope R_scope.

(** One step, at hidden layer k (from 0): other units in the place of all units of the layer, and
    other weights and biases of the layer behind it; or the layer goes. *)
Inductive change := Replace (units : layer) (behind : list row) | Skip (behind : list row).
Record link := Link { place : nat; step : change }.

(** Where a claim is made: ranges of the inputs, none for all inputs; and how that box is cut into
    parts, on each of which everything is checked. *)
Inductive parts := Whole | Halves (input : nat) (cut : Q) (below above : parts).

Record proof := Proof {
  inputs : nat;
  domain : list ends;
  cuts : parts;
  large : network;
  small : network;
  large_links : list link;
  small_links : list link;
  claimed_constant : Q;
  claimed_growth : Q
}.

(** Columns of n entries each: of a matrix with rows of length n. *)
Fixpoint with_row (r : list Q) (cs : list (list Q)) : list (list Q) :=
  match r, cs with x :: r', c :: cs' => (x :: c) :: with_row r' cs' | _, _ => [] end.

Fixpoint columns (n : nat) (rs : list (list Q)) : list (list Q) :=
  match rs with [] => repeat [] n | r :: rs' => with_row r (columns n rs') end.

Fixpoint unit_terms (a : activation) (rs : list row) (cs : list (list Q)) : list term :=
  match rs, cs with
  | r :: rs', c :: cs' => Term (Through a) (fst r) (snd r) c :: unit_terms a rs' cs'
  | _, _ => []
  end.

(** What a hidden layer adds to the rows behind it, with their biases. *)
Definition contribution (l : layer) (behind : list row) : list term :=
  Term Linear [] 1 (map snd behind)
    :: unit_terms (function l) (rows l) (columns (length (rows l)) (map fst behind)).

(** An affine map as such a sum; before the first row there are rows for zeros. *)
Fixpoint affine_terms (zeros : list Q) (rs : list row) : list term :=
  match rs with
  | [] => []
  | r :: rs' => Term Linear (fst r) (snd r) (zeros ++ [1%Q]) :: affine_terms (0%Q :: zeros) rs'
  end.

Definition fits (n : nat) (rs : list row) : bool := forallb (fun r => Nat.eqb (length (fst r)) n) rs.

(** A layer and the one behind it after a change, and bounds of what it does to pre-activations of
    the latter. n values are read, within es. *)
Definition changed (n : nat) (es : list ends) (l m : layer) (c : change) : option (network * list Q) :=
  match c with
  | Replace l' behind =>
      if fits n (rows l') && fits (length (rows l')) behind
        && Nat.eqb (length behind) (length (rows m))
      then option_map (fun e => ([l'; Layer behind (function m)], e))
        (bounded n es (contribution l (rows m) ++ map negated (contribution l' behind)))
      else None
  | Skip behind =>
      if fits n behind && Nat.eqb (length behind) (length (rows m))
      then option_map (fun e => ([Layer behind (function m)], e))
        (bounded n es (contribution l (rows m) ++ map negated (affine_terms [] behind)))
      else None
  end.

Fixpoint linked (k : nat) (n : nat) (es : list ends) (net : network) (c : change)
  : option (network * list Q) :=
  match net with
  | [] => None
  | l :: rest =>
      match k with
      | O =>
          match rest with
          | [] => None
          | m :: rest' =>
              option_map (fun found => (fst found ++ rest', propagated (snd found) (function m) rest'))
                (changed n es l m c)
          end
      | S k' =>
          option_map (fun found => (l :: fst found, snd found))
            (linked k' (length (rows l)) (after l es) rest c)
      end
  end.

(** All links, and the sum of what they cost; or how many links were left at the first that fails. *)
Fixpoint followed (n : nat) (es : list ends) (net : network) (cost : list Q) (links : list link)
  : (network * list Q) + nat :=
  match links with
  | [] => inl (net, cost)
  | Link k c :: rest =>
      match linked k n es net c with
      | Some (net', e) => followed n es net' (plus cost e) rest
      | None => inr (length links)
      end
  end.

Inductive verdict :=
| Proved
| BadShape
| BadLargeLink (left : nat)  (* links left, this one included *)
| BadSmallLink (left : nat)
| Different  (* after all links the architectures are not the same *)
| TooFar (constant growth : list Q).  (* what is proved, by output *)

(** Bounds of the inputs: a number where there are both ends, else |x|. *)
Definition input_bound (e : ends) : bound :=
  match e with
  | (Some low, Some high) => (most (size low) (size high), 0%Q)
  | _ => (0%Q, 1%Q)
  end.

Fixpoint input_bounds (n : nat) (es : list ends) : list bound :=
  match n with O => [] | S m => input_bound (hd free es) :: input_bounds m (tl es) end.

(** For inputs within es. *)
Definition verdict_on (p : proof) (es : list ends) : verdict :=
  let n := inputs p in
  match followed n es (large p) [] (large_links p), followed n es (small p) [] (small_links p) with
  | inr k, _ => BadLargeLink k
  | _, inr k => BadSmallLink k
  | inl (one, cost), inl (two, cost') =>
      match gap (input_bounds n es) (repeat nothing n) one two with
      | None => Different
      | Some gaps =>
          let constants := plus (map fst gaps) (plus cost cost') in
          let growths := map snd gaps in
          if Qle_bool 0 (claimed_constant p) && Qle_bool 0 (claimed_growth p)
            && forallb (fun q => Qle_bool q (claimed_constant p)) constants
            && forallb (fun q => Qle_bool q (claimed_growth p)) growths
          then Proved else TooFar constants growths
      end
  end.

Definition lowered (e : ends) (cut : Q) : ends := (fst e, Some cut).
Definition raised_to (e : ends) (cut : Q) : ends := (Some cut, snd e).

(** The range of one input is another one. *)
Fixpoint with_range (i : nat) (f : ends -> ends) (es : list ends) : list ends :=
  match i, es with
  | O, e :: es' => f e :: es'
  | O, [] => [f free]
  | S j, e :: es' => e :: with_range j f es'
  | S j, [] => free :: with_range j f []
  end.

Fixpoint on_parts (p : proof) (es : list ends) (t : parts) : verdict :=
  match t with
  | Whole => verdict_on p es
  | Halves i cut below above =>
      match on_parts p (with_range i (fun e => lowered e cut) es) below with
      | Proved => on_parts p (with_range i (fun e => raised_to e cut) es) above
      | other => other
      end
  end.

Definition verdict_of (p : proof) : verdict :=
  if shaped (inputs p) (large p) && shaped (inputs p) (small p) then on_parts p (domain p) (cuts p)
  else BadShape.

Definition accepts (p : proof) : bool := match verdict_of p with Proved => true | _ => false end.

(** Sums over units ------------------------------------------------------------------------------- *)

Section Meaning.

Variable other : smooth -> R -> R.
Hypothesis other_lawful : lawful other.

Fixpoint combined (cs : list (list Q)) (hs : list R) (i : nat) : R :=
  match cs, hs with c :: cs', x :: hs' => at_ c i * x + combined cs' hs' i | _, _ => 0 end.

Lemma with_row_length : forall r cs, length r = length cs -> length (with_row r cs) = length r.
Proof.
  induction r as [|x r IH]; intros [|c cs] L; try discriminate; [reflexivity|].
  cbn in *. f_equal. apply IH. lia.
Qed.

Lemma combined_first : forall r cs hs, length r = length cs ->
  combined (with_row r cs) hs 0 = dot r hs.
Proof.
  induction r as [|x r IH]; intros [|c cs] [|y hs] L; try discriminate; try reflexivity.
  cbn [with_row combined dot]. rewrite IH by (cbn in L; lia). reflexivity.
Qed.

Lemma combined_later : forall r cs hs i, length r = length cs ->
  combined (with_row r cs) hs (S i) = combined cs hs i.
Proof.
  induction r as [|x r IH]; intros [|c cs] [|y hs] i L; try discriminate; try reflexivity.
  cbn [with_row combined]. rewrite IH by (cbn in L; lia). reflexivity.
Qed.

Lemma columns_length : forall n rs, forallb (fun r => Nat.eqb (length r) n) rs = true ->
  length (columns n rs) = n.
Proof.
  induction rs as [|r rs IH]; intros E; cbn in *; [apply repeat_length|].
  apply andb_true_iff in E as [E F]. apply Nat.eqb_eq in E.
  rewrite with_row_length; rewrite ?IH; auto.
Qed.

Lemma combined_columns : forall n rs hs i, forallb (fun r => Nat.eqb (length r) n) rs = true ->
  combined (columns n rs) hs i = dot (row_at rs i) hs.
Proof.
  intros n. induction rs as [|r rs IH]; intros hs i E.
  - replace (dot (row_at [] i) hs) with 0 by (destruct i, hs; reflexivity).
    cbn [columns]. clear E. revert hs. induction n as [|n IH]; intros [|x hs]; try reflexivity.
    cbn [repeat combined]. rewrite at_nil, IH. ring.
  - cbn [forallb] in E. apply andb_true_iff in E as [E F]. cbn [columns].
    assert (L : length r = length (columns n rs)).
    { rewrite columns_length by exact F. apply Nat.eqb_eq, E. }
    destruct i as [|i].
    + apply combined_first, L.
    + rewrite combined_later by exact L. apply IH, F.
Qed.

Lemma unit_terms_sum : forall a rs cs h i, length cs = length rs ->
  sum other (unit_terms a rs cs) h i = combined cs (map (meaning other a) (affine rs h)) i.
Proof.
  intros a. induction rs as [|r rs IH]; intros [|c cs] h i L; try discriminate; try reflexivity.
  cbn [unit_terms sum affine map combined]. rewrite IH by (cbn in L; lia). reflexivity.
Qed.

Lemma fits_first : forall n rs, fits n rs = true ->
  forallb (fun r => Nat.eqb (length r) n) (map fst rs) = true.
Proof. intros n rs. unfold fits. induction rs as [|r rs IH]; cbn; auto. intros E.
  apply andb_true_iff in E as [E F]. rewrite E, (IH F). reflexivity. Qed.

Lemma val_affine : forall rs h i, val (affine rs h) i = dot (row_at (map fst rs) i) h + at_ (map snd rs) i.
Proof.
  unfold val, row_at, at_. induction rs as [|r rs IH]; intros h [|i]; cbn [affine map nth].
  - replace (dot [] h) with 0 by (destruct h; reflexivity). rewrite real_zero. ring.
  - replace (dot [] h) with 0 by (destruct h; reflexivity). rewrite real_zero. ring.
  - reflexivity.
  - apply IH.
Qed.

Lemma contribution_sum : forall l behind h i, fits (length (rows l)) behind = true ->
  sum other (contribution l behind) h i = val (affine behind (applied other l h)) i.
Proof.
  intros l behind h i F. apply fits_first in F. unfold contribution. cbn [sum].
  rewrite unit_terms_sum by (apply columns_length, F).
  rewrite combined_columns by exact F. rewrite val_affine. fold (applied other l h).
  unfold worth; cbn [form weights bias column of_form].
  replace (dot [] h) with 0 by (destruct h; reflexivity). rewrite real_one. ring.
Qed.

Lemma at_last : forall zeros i, all_zero zeros = true ->
  at_ (zeros ++ [1%Q]) i = if Nat.eqb i (length zeros) then 1 else 0.
Proof.
  induction zeros as [|q zeros IH]; intros [|i] Z; unfold at_ in *; cbn in *.
  - apply real_one.
  - destruct i; apply real_zero.
  - apply andb_true_iff in Z as [Z _]. apply real_is_zero, Z.
  - apply andb_true_iff in Z as [_ Z]. apply IH, Z.
Qed.

Lemma affine_terms_sum : forall rs zeros h i, all_zero zeros = true ->
  sum other (affine_terms zeros rs) h i =
  if Nat.ltb i (length zeros) then 0 else val (affine rs h) (i - length zeros).
Proof.
  induction rs as [|r rs IH]; intros zeros h i Z; cbn [affine_terms sum].
  - destruct (Nat.ltb i (length zeros)); [reflexivity|]. unfold val. destruct (i - length zeros)%nat; reflexivity.
  - rewrite IH by (cbn; exact Z). unfold worth; cbn [form weights bias column of_form].
    rewrite at_last by exact Z. cbn [length].
    destruct (Nat.eqb_spec i (length zeros)) as [->|N].
    + replace (Nat.ltb (length zeros) (S (length zeros))) with true by (symmetry; apply Nat.ltb_lt; lia).
      replace (Nat.ltb (length zeros) (length zeros)) with false by (symmetry; apply Nat.ltb_ge; lia).
      rewrite Nat.sub_diag. change (val (affine (r :: rs) h) 0) with (preactivation h r).
      unfold preactivation. ring.
    + destruct (Nat.ltb_spec i (length zeros)) as [I|I].
      * replace (Nat.ltb i (S (length zeros))) with true by (symmetry; apply Nat.ltb_lt; lia). ring.
      * replace (Nat.ltb i (S (length zeros))) with false by (symmetry; apply Nat.ltb_ge; lia).
        replace (i - length zeros)%nat with (S (i - S (length zeros))) by lia.
        change (val (affine (r :: rs) h) (S (i - S (length zeros))))
          with (val (affine rs h) (i - S (length zeros))). ring.
Qed.

(** Links ----------------------------------------------------------------------------------------- *)

Lemma eval_app : forall one two x, eval other (one ++ two) x = eval other two (eval other one x).
Proof. induction one as [|l one IH]; intros; [reflexivity|]. apply IH. Qed.

Lemma length_applied : forall l h, length (applied other l h) = length (rows l).
Proof. intros. unfold applied, affine. rewrite !map_length. reflexivity. Qed.

Lemma length_affine : forall rs h, length (affine rs h) = length rs.
Proof. intros. apply map_length. Qed.

Lemma changed_sound : forall n es l m c net e, changed n es l m c = Some (net, e) ->
  fits n (rows l) = true -> fits (length (rows l)) (rows m) = true ->
  forall h, length h = n -> all_inside es h ->
  exists behind before,
    net = before ++ [Layer behind (function m)]
    /\ shaped n net = true
    /\ length behind = length (rows m)
    /\ within e (affine (rows m) (applied other l h)) (affine behind (eval other before h)).
Proof.
  intros n es l m c net e E F G h L A. destruct c as [l' behind|behind]; cbn [changed] in E.
  - destruct (_ && _) eqn:S; [|discriminate].
    apply andb_true_iff in S as [S N]. apply andb_true_iff in S as [S T]. apply Nat.eqb_eq in N.
    destruct (bounded _ _ _) as [e'|] eqn:B; inversion E; subst; clear E.
    exists behind, [l']. split; [reflexivity|]. split.
    { unfold fits in S, T. cbn [shaped rows]. rewrite S, T. reflexivity. }
    split; [exact N|]. split; [rewrite !length_affine; congruence|].
    intros i. pose proof (bounded_sum other other_lawful _ _ _ _ B h i eq_refl A) as H.
    rewrite sum_app, sum_negated, !contribution_sum in H by assumption. exact H.
  - destruct (_ && _) eqn:S; [|discriminate].
    apply andb_true_iff in S as [S N]. apply Nat.eqb_eq in N.
    destruct (bounded _ _ _) as [e'|] eqn:B; inversion E; subst; clear E.
    exists behind, []. split; [reflexivity|]. split.
    { unfold fits in S. cbn [shaped rows]. rewrite S. reflexivity. }
    split; [exact N|]. split; [rewrite !length_affine; congruence|].
    intros i. pose proof (bounded_sum other other_lawful _ _ _ _ B h i eq_refl A) as H.
    rewrite sum_app, sum_negated, contribution_sum, affine_terms_sum in H by (assumption || reflexivity).
    cbn [length Nat.ltb Nat.leb] in H. rewrite Nat.sub_0_r in H. exact H.
Qed.

Lemma shaped_app : forall one n m two, shaped n (one ++ [m]) = true ->
  shaped (length (rows m)) two = true -> shaped n (one ++ m :: two) = true.
Proof.
  induction one as [|l one IH]; intros n m two S T; cbn [app shaped] in *.
  - apply andb_true_iff in S as [S _]. rewrite S, T. reflexivity.
  - apply andb_true_iff in S as [S S']. rewrite S. apply IH; assumption.
Qed.

Lemma linked_sound : forall k n es net c net' e, linked k n es net c = Some (net', e) ->
  shaped n net = true -> forall x, length x = n -> all_inside es x ->
  shaped n net' = true /\ within e (eval other net x) (eval other net' x).
Proof.
  induction k as [|k IH]; intros n es [|l rest] c net' e E S x L A; cbn [linked] in E; try discriminate.
  - destruct rest as [|m rest]; [discriminate|].
    destruct (changed n es l m c) as [[found d]|] eqn:C; inversion E; subst; clear E.
    cbn [shaped] in S. apply andb_true_iff in S as [S T]. apply andb_true_iff in T as [T U].
    destruct (changed_sound _ _ _ _ _ _ _ C S T x eq_refl A)
      as (behind & before & -> & V & N & W).
    cbn [fst snd]. rewrite <- app_assoc. cbn [app]. split.
    + apply shaped_app; [exact V | cbn [rows]; rewrite N; exact U].
    + rewrite eval_app. cbn [eval]. unfold applied at 1 3; cbn [rows function].
      apply propagated_bounds; assumption.
  - destruct (linked k (length (rows l)) (after l es) rest c) as [[found d]|] eqn:C;
      inversion E; subst; clear E.
    cbn [shaped fst snd] in *. apply andb_true_iff in S as [S T].
    destruct (IH _ _ _ _ _ _ C T (applied other l x)) as [V W].
    + apply length_applied.
    + apply after_inside; assumption.
    + split; [|exact W]. rewrite S. exact V.
Qed.

Lemma within_sum : forall d e u v w, within d u v -> within e v w -> within (plus d e) u w.
Proof.
  intros d e u v w [L H] [M K]. split; [congruence|]. intros i. rewrite at_plus.
  specialize (H i). specialize (K i).
  replace (val u i - val w i) with ((val u i - val v i) + (val v i - val w i)) by ring.
  apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

Lemma within_self : forall u, within [] u u.
Proof.
  intros u. split; [reflexivity|]. intros i.
  rewrite at_nil, Rminus_diag_eq, Rabs_R0 by reflexivity. lra.
Qed.

Lemma followed_sound : forall links n es start net cost net' cost',
  followed n es net cost links = inl (net', cost') -> shaped n net = true ->
  forall x, length x = n -> all_inside es x -> within cost (eval other start x) (eval other net x) ->
  shaped n net' = true /\ within cost' (eval other start x) (eval other net' x).
Proof.
  induction links as [|[k c] links IH]; intros n es start net cost net' cost' E S x L A W; cbn [followed] in E.
  - inversion E; subst. split; assumption.
  - destruct (linked k n es net c) as [[next e]|] eqn:C; [|discriminate].
    destruct (linked_sound _ _ _ _ _ _ _ C S x L A) as [T V].
    apply (IH _ es start _ _ _ _ E T x L A). apply within_sum with (v := eval other net x); assumption.
Qed.

(** Inputs ---------------------------------------------------------------------------------------- *)

Fixpoint norm (x : list R) : R := match x with [] => 0 | y :: x' => Rmax (Rabs y) (norm x') end.

Lemma input_bound_above : forall X e y, Rabs y <= X -> inside e y -> Rabs y <= upper_end X (input_bound e).
Proof.
  intros X [[low|] [high|]] y N [A B]; unfold upper_end; cbn [input_bound fst snd holds] in *;
    rewrite real_zero, ?real_one, ?real_most, ?real_size; try lra.
  pose proof (Rmax_l (Rabs (Q2R low)) (Rabs (Q2R high))).
  pose proof (Rmax_r (Rabs (Q2R low)) (Rabs (Q2R high))).
  pose proof (Rle_abs (Q2R high)). pose proof (Rle_abs (- Q2R low)) as M. rewrite Rabs_Ropp in M.
  rewrite Rmult_0_l, Rplus_0_r. apply Rabs_le. lra.
Qed.

Lemma inputs_below : forall X x es, norm x <= X -> all_inside es x ->
  below X (input_bounds (length x) es) x.
Proof.
  intros X. induction x as [|y x IH]; intros es N A; cbn [length input_bounds]; constructor.
  - apply input_bound_above.
    + cbn in N. pose proof (Rmax_l (Rabs y) (norm x)). lra.
    + destruct es as [|e es]; cbn in *; [split; exact I | apply A].
  - apply IH.
    + cbn in N. pose proof (Rmax_r (Rabs y) (norm x)). lra.
    + destruct es as [|e es]; cbn in *; [destruct x; exact I | apply A].
Qed.

Lemma inputs_equal : forall X x, apart X (repeat nothing (length x)) x x.
Proof.
  intros X. induction x as [|y x IH]; cbn [length repeat]; constructor; [|exact IH].
  rewrite upper_nothing, Rminus_diag_eq, Rabs_R0 by reflexivity. lra.
Qed.

Lemma norm_not_negative : forall x, 0 <= norm x.
Proof.
  induction x as [|y x IH]; cbn; [lra|].
  apply Rle_trans with (1 := Rabs_pos y). apply Rmax_l.
Qed.

Lemma apart_entry : forall X es u v, apart X es u v -> length u = length v /\ forall i,
  Rabs (val u i - val v i) <= at_ (map fst es) i + at_ (map snd es) i * X.
Proof.
  intros X es u v D. induction D as [|e es x u y v H D [L IH]].
  - split; [reflexivity|]. intros i. cbn [map]. rewrite !at_nil.
    unfold val. destruct i; cbn; rewrite Rminus_diag_eq, Rabs_R0 by reflexivity; lra.
  - split; [cbn; congruence|]. intros [|i]; [exact H | apply (IH i)].
Qed.

Lemma at_most_all : forall v q i, Qle_bool 0 q = true -> forallb (fun p => Qle_bool p q) v = true ->
  at_ v i <= Q2R q.
Proof.
  induction v as [|p v IH]; intros q [|i] Z E; unfold at_ in *; cbn [nth forallb] in *;
    try (apply real_le; exact Z); apply andb_true_iff in E as [E F].
  - apply real_le, E.
  - apply IH; assumption.
Qed.

Lemma abs_ends : forall x e, Rabs x <= e -> - e <= x <= e.
Proof. intros x e. unfold Rabs. destruct (Rcase_abs x); intros; lra. Qed.

(** The theorem ----------------------------------------------------------------------------------- *)

Lemma verdict_on_sound : forall p es, verdict_on p es = Proved ->
  shaped (inputs p) (large p) = true -> shaped (inputs p) (small p) = true ->
  forall x, length x = inputs p -> all_inside es x ->
    length (eval other (small p) x) = length (eval other (large p) x)
    /\ forall i, Rabs (val (eval other (small p) x) i - val (eval other (large p) x) i)
        <= Q2R (claimed_constant p) + Q2R (claimed_growth p) * norm x.
Proof.
  intros p es E S T x L I. unfold verdict_on in E.
  destruct (followed _ es (large p) _ _) as [[one cost]|] eqn:F; [|discriminate].
  destruct (followed _ es (small p) _ _) as [[two cost']|] eqn:G; [|discriminate].
  destruct (gap _ _ one two) as [gaps|] eqn:D; [|discriminate].
  destruct (_ && _) eqn:B; [|discriminate]. clear E.
  apply andb_true_iff in B as [B K]. apply andb_true_iff in B as [B C].
  apply andb_true_iff in B as [P Q].
  destruct (followed_sound _ _ es (large p) _ _ _ _ F S x L I (within_self _)) as [S' [M V]].
  destruct (followed_sound _ _ es (small p) _ _ _ _ G T x L I (within_self _)) as [T' [N W]].
  rewrite <- L in *.
  pose proof (gap_above other other_lawful (norm x) one two _ _ x x gaps
    (inputs_below _ _ _ (Rle_refl _) I) (inputs_equal _ _) S' T' D) as A.
  destruct (apart_entry _ _ _ _ A) as [R H].
  split; [congruence|]. intros i. specialize (V i). specialize (W i). specialize (H i).
  pose proof (at_most_all _ _ i P C) as C'. pose proof (at_most_all _ _ i Q K) as K'.
  rewrite !at_plus in C'.
  assert (at_ (map snd gaps) i * norm x <= Q2R (claimed_growth p) * norm x)
    by (apply Rmult_le_compat_r; [apply norm_not_negative | exact K']).
  apply abs_ends in V, W, H. apply Rabs_le. lra.
Qed.

Lemma with_range_inside : forall f i es x, all_inside es x ->
  (forall e, inside e (val x i) -> inside (f e) (val x i)) -> all_inside (with_range i f es) x.
Proof.
  intros f. induction i as [|i IH]; intros [|e es] [|y x] A H; cbn in *; try exact I; try tauto.
  - split; [|exact I]. apply H. split; exact I.
  - destruct A as [A B]. split; [apply H, A | exact B].
  - split; [split; exact I|]. apply (IH [] x I H).
  - destruct A as [A B]. split; [exact A|]. apply (IH es x B H).
Qed.

Lemma on_parts_sound : forall p t es, on_parts p es t = Proved ->
  shaped (inputs p) (large p) = true -> shaped (inputs p) (small p) = true ->
  forall x, length x = inputs p -> all_inside es x ->
    length (eval other (small p) x) = length (eval other (large p) x)
    /\ forall i, Rabs (val (eval other (small p) x) i - val (eval other (large p) x) i)
        <= Q2R (claimed_constant p) + Q2R (claimed_growth p) * norm x.
Proof.
  intros p. induction t as [|i cut below IHb above IHa]; intros es E S T x L A; cbn [on_parts] in E.
  - apply (verdict_on_sound p es); assumption.
  - destruct (on_parts p (with_range i (fun e => lowered e cut) es) below) eqn:B; try discriminate.
    destruct (Rle_lt_dec (val x i) (Q2R cut)) as [H|H].
    + apply (IHb _ B S T x L). apply with_range_inside; [exact A|].
      intros e [P _]. split; [exact P | exact H].
    + apply (IHa _ E S T x L). apply with_range_inside; [exact A|].
      intros e [_ P]. split; [cbn; lra | exact P].
Qed.

Theorem checker_sound : forall p, accepts p = true ->
  forall x, length x = inputs p -> all_inside (domain p) x ->
    length (eval other (small p) x) = length (eval other (large p) x)
    /\ forall i, Rabs (val (eval other (small p) x) i - val (eval other (large p) x) i)
        <= Q2R (claimed_constant p) + Q2R (claimed_growth p) * norm x.
Proof.
  intros p E x L A. unfold accepts, verdict_of in E.
  destruct (shaped _ (large p) && shaped _ (small p)) eqn:S; [|discriminate].
  apply andb_true_iff in S as [S T].
  destruct (on_parts p (domain p) (cuts p)) eqn:P; try discriminate.
  apply (on_parts_sound p _ _ P S T x L A).
Qed.

End Meaning.

(** Without hypotheses, where no network uses an activation that is only known by its laws. *)

Definition is_defined (a : activation) : bool := match a with Other _ => false | _ => true end.
Definition all_defined (net : network) : bool := forallb (fun l => is_defined (function l)) net.

Lemma eval_defined : forall one two net x, all_defined net = true -> eval one net x = eval two net x.
Proof.
  intros one two. induction net as [|l net IH]; intros x E; [reflexivity|].
  cbn [all_defined forallb eval] in *. apply andb_true_iff in E as [E F]. rewrite (IH _ F).
  f_equal. unfold applied. destruct (function l); try reflexivity; discriminate.
Qed.

(** Functions that satisfy the laws, so that these contradict nothing: lines and zero. *)
Definition example (name : smooth) : R -> R :=
  match name with
  | Erf | Mish | Elu _ => fun _ => 0
  | Gelu | GeluTanh | Silu | Hardswish => relu
  end.

Lemma zero_obeys : forall l, 0 <= Q2R (lipschitz l) -> 0 <= Q2R (at_zero l) ->
  holds (fun q => 0 = Q2R q) (zero_value l) -> holds (fun q => Q2R q <= 0) (lower l) ->
  holds (fun q => 0 <= Q2R q) (upper l) ->
  holds (fun c => Q2R (snd (fst c)) = 0 /\ Q2R (snd c) = 0) (reflection l) ->
  obeys l (fun _ => 0).
Proof.
  intros l L Z V A B F. split.
  - intros x y. rewrite Rminus_diag_eq, Rabs_R0 by reflexivity.
    apply Rmult_le_pos; [exact L | apply Rabs_pos].
  - rewrite Rabs_R0. exact Z.
  - exact V.
  - destruct (lower l); cbn in *; auto.
  - destruct (upper l); cbn in *; auto.
  - destruct (reflection l) as [[[s k] g]|]; cbn in *; [|exact I]. destruct F as [-> ->]. intros. ring.
Qed.

Lemma relu_obeys : forall l, 1 <= Q2R (lipschitz l) -> 0 <= Q2R (at_zero l) ->
  holds (fun q => 0 = Q2R q) (zero_value l) -> holds (fun q => Q2R q <= 0) (lower l) ->
  upper l = None -> reflection l = ramp -> obeys l relu.
Proof.
  intros l L Z V A B F. assert (R0 : relu 0 = 0) by (cases; lra). split.
  - intros x y. apply Rle_trans with (1 := relu_lipschitz x y).
    rewrite <- (Rmult_1_l (Rabs (x - y))) at 1. apply Rmult_le_compat_r; [apply Rabs_pos | exact L].
  - rewrite R0, Rabs_R0. exact Z.
  - rewrite R0. exact V.
  - destruct (lower l) as [q|]; cbn in *; [|exact I]. intros z.
    apply Rle_trans with (1 := A). cases; lra.
  - rewrite B. exact I.
  - rewrite F. cbn. intros z. unfold Q2R; simpl. pose proof (relu_turned z). lra.
Qed.

Theorem example_lawful : lawful example.
Proof.
  intros [| | | | | |alpha]; cbn [example smooth_law];
    try (apply zero_obeys; cbn; unfold Q2R; simpl; try lra; try exact I; lra);
    try (apply relu_obeys; cbn; unfold Q2R; simpl; try lra; try exact I; reflexivity).
  apply zero_obeys; cbn; rewrite ?real_most, ?real_least, ?real_size, ?real_one, ?real_zero;
    try exact I; try lra.
  - apply Rle_trans with (2 := Rmax_l _ _). lra.
  - apply Rmin_r.
Qed.

Theorem checker_sound_defined : forall p, accepts p = true ->
  all_defined (large p) = true -> all_defined (small p) = true ->
  forall other x, length x = inputs p -> all_inside (domain p) x ->
    length (eval other (small p) x) = length (eval other (large p) x)
    /\ forall i, Rabs (val (eval other (small p) x) i - val (eval other (large p) x) i)
        <= Q2R (claimed_constant p) + Q2R (claimed_growth p) * norm x.
Proof.
  intros p E D F other x L A.
  rewrite (eval_defined other example _ x D), (eval_defined other example _ x F).
  apply checker_sound; [apply example_lawful | exact E | exact L | exact A].
Qed.
