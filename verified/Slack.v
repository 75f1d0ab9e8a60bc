(** How far two networks of one architecture are apart for all inputs: bounds c + g |x| are carried
    from layer to layer, of the values of one and of the difference of both. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
From Moduli Require Import Numbers Activations Networks.
Import ListNotations.
Open Scope R_scope.

Definition bound : Set := (Q * Q)%type.  (* (c, g): c + g |x| *)
Definition nothing : bound := (0%Q, 0%Q).

Definition join (a b : bound) : bound := (add (fst a) (fst b), add (snd a) (snd b)).
Definition multiple (q : Q) (a : bound) : bound := (mul q (fst a), mul q (snd a)).
Definition raised (q : Q) (a : bound) : bound := (add q (fst a), snd a).

(** |w . h| *)
Fixpoint dot_bound (w : list Q) (hs : list bound) : bound :=
  match w, hs with
  | q :: w', b :: hs' => join (multiple (size q) b) (dot_bound w' hs')
  | _, _ => nothing
  end.

(** |u . h - v . k|, where h is bounded by hs and h - k by es. *)
Fixpoint moved (u v : list Q) (hs es : list bound) : bound :=
  match u, v, hs, es with
  | p :: u', q :: v', b :: hs', e :: es' =>
      join (join (multiple (size (sub p q)) b) (multiple (size q) e)) (moved u' v' hs' es')
  | _, _, _, _ => nothing
  end.

(** |s(y) - s(z)|, where y - z is bounded by e. *)
Definition passed (a : activation) (e : bound) : bound :=
  match lower (laws a), upper (laws a) with
  | Some low, Some high =>
      if is_zero (snd e) then multiple (lipschitz (laws a)) e else (sub high low, 0%Q)
  | _, _ => multiple (lipschitz (laws a)) e
  end.

(** |s(z)|, where z is bounded by b. *)
Definition reach (a : activation) (b : bound) : bound :=
  match lower (laws a), upper (laws a) with
  | Some low, Some high => (most (size low) (size high), 0%Q)
  | _, _ => raised (at_zero (laws a)) (multiple (lipschitz (laws a)) b)
  end.

Definition pair_moved (a : activation) (hs es : list bound) (r s : row) : bound :=
  passed a (raised (size (sub (snd r) (snd s))) (moved (fst r) (fst s) hs es)).

Definition row_reach (a : activation) (hs : list bound) (r : row) : bound :=
  reach a (raised (size (snd r)) (dot_bound (fst r) hs)).

Fixpoint pairs_moved (a : activation) (hs es : list bound) (rs ss : list row) : option (list bound) :=
  match rs, ss with
  | [], [] => Some []
  | r :: rs', s :: ss' =>
      option_map (cons (pair_moved a hs es r s)) (pairs_moved a hs es rs' ss')
  | _, _ => None
  end.

(** Bounds of the difference of the outputs; None where the architectures differ. *)
Fixpoint gap (hs es : list bound) (one two : network) : option (list bound) :=
  match one, two with
  | [], [] => Some es
  | l :: one', m :: two' =>
      if same_activation (function l) (function m) then
        match pairs_moved (function l) hs es (rows l) (rows m) with
        | Some es' => gap (map (row_reach (function l) hs) (rows l)) es' one' two'
        | None => None
        end
      else None
  | _, _ => None
  end.

Section Meaning.

Variable other : smooth -> R -> R.
Hypothesis other_lawful : lawful other.
Variable X : R.  (* |x| *)

Definition upper_end (b : bound) : R := Q2R (fst b) + Q2R (snd b) * X.

Lemma upper_join : forall a b, upper_end (join a b) = upper_end a + upper_end b.
Proof. intros. unfold upper_end, join; cbn. rewrite !real_add. ring. Qed.

Lemma upper_multiple : forall q a, upper_end (multiple q a) = Q2R q * upper_end a.
Proof. intros. unfold upper_end, multiple; cbn [fst snd]. rewrite !real_mul. ring. Qed.

Lemma upper_raised : forall q a, upper_end (raised q a) = Q2R q + upper_end a.
Proof. intros. unfold upper_end, raised; cbn [fst snd]. rewrite real_add. ring. Qed.

Lemma upper_nothing : upper_end nothing = 0.
Proof. unfold upper_end, nothing; cbn [fst snd]. rewrite real_zero. ring. Qed.

Definition below (hs : list bound) (h : list R) : Prop :=
  Forall2 (fun b x => Rabs x <= upper_end b) hs h.

Inductive apart : list bound -> list R -> list R -> Prop :=
| apart_nil : apart [] [] []
| apart_cons : forall e es x h y k,
    Rabs (x - y) <= upper_end e -> apart es h k -> apart (e :: es) (x :: h) (y :: k).

Lemma dot_bound_above : forall w hs h, below hs h -> Rabs (dot w h) <= upper_end (dot_bound w hs).
Proof.
  induction w as [|q w IH]; intros hs h B.
  - cbn [dot dot_bound]. rewrite upper_nothing, Rabs_R0. lra.
  - destruct B as [|b x hs h P B]; cbn [dot dot_bound].
    + rewrite upper_nothing, Rabs_R0. lra.
    + rewrite upper_join, upper_multiple, real_size.
      apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult.
      specialize (IH _ _ B).
      assert (Rabs (Q2R q) * Rabs x <= Rabs (Q2R q) * upper_end b)
        by (apply Rmult_le_compat_l; [apply Rabs_pos | exact P]).
      lra.
Qed.

Lemma moved_above : forall u v hs es h k, length u = length v -> below hs h -> apart es h k ->
  Rabs (dot u h - dot v k) <= upper_end (moved u v hs es).
Proof.
  induction u as [|p u IH]; intros [|q v] hs es h k L B D; try discriminate.
  - cbn [dot moved]. rewrite upper_nothing, Rminus_0_r, Rabs_R0. lra.
  - destruct D as [|e es x h y k E D]; inversion B as [|b x' hs' h' P B']; subst; cbn [dot moved].
    + rewrite upper_nothing, Rminus_0_r, Rabs_R0. lra.
    + rewrite !upper_join, !upper_multiple, !real_size, real_sub.
      replace (Q2R p * x + dot u h - (Q2R q * y + dot v k))
        with ((Q2R p - Q2R q) * x + Q2R q * (x - y) + (dot u h - dot v k)) by ring.
      apply Rle_trans with (1 := Rabs_triang _ _).
      pose proof (Rabs_triang ((Q2R p - Q2R q) * x) (Q2R q * (x - y))) as T.
      rewrite !Rabs_mult in T.
      assert (Rabs (Q2R p - Q2R q) * Rabs x <= Rabs (Q2R p - Q2R q) * upper_end b)
        by (apply Rmult_le_compat_l; [apply Rabs_pos | exact P]).
      assert (Rabs (Q2R q) * Rabs (x - y) <= Rabs (Q2R q) * upper_end e)
        by (apply Rmult_le_compat_l; [apply Rabs_pos | exact E]).
      specialize (IH v _ _ _ _ ltac:(now inversion L) B' D). lra.
Qed.

Lemma lipschitz_not_negative : forall l s, obeys l s -> 0 <= Q2R (lipschitz l).
Proof.
  intros l s O. pose proof (is_lipschitz _ _ O 1 0) as B.
  rewrite Rminus_0_r, Rabs_R1, Rmult_1_r in B. apply Rle_trans with (2 := B). apply Rabs_pos.
Qed.

Lemma passed_above : forall a e y z, Rabs (y - z) <= upper_end e ->
  Rabs (meaning other a y - meaning other a z) <= upper_end (passed a e).
Proof.
  intros a e y z H. pose proof (meaning_obeys other a other_lawful) as O.
  assert (L : Rabs (meaning other a y - meaning other a z)
    <= upper_end (multiple (lipschitz (laws a)) e)).
  { rewrite upper_multiple. apply Rle_trans with (1 := is_lipschitz _ _ O _ _).
    apply Rmult_le_compat_l; [exact (lipschitz_not_negative _ _ O) | exact H]. }
  unfold passed. pose proof (is_above _ _ O) as A. pose proof (is_below _ _ O) as B.
  destruct (lower (laws a)) as [low|], (upper (laws a)) as [high|]; try exact L.
  destruct (is_zero (snd e)); [exact L|].
  unfold upper_end; cbn [fst snd holds] in *. rewrite real_sub, real_zero.
  pose proof (A y). pose proof (A z). pose proof (B y). pose proof (B z). apply Rabs_le. lra.
Qed.

Lemma reach_above : forall a b z, Rabs z <= upper_end b ->
  Rabs (meaning other a z) <= upper_end (reach a b).
Proof.
  intros a b z H. pose proof (meaning_obeys other a other_lawful) as O.
  assert (L : Rabs (meaning other a z)
    <= upper_end (raised (at_zero (laws a)) (multiple (lipschitz (laws a)) b))).
  { rewrite upper_raised, upper_multiple.
    replace (meaning other a z) with (meaning other a 0 + (meaning other a z - meaning other a 0)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _).
    pose proof (is_small_at_zero _ _ O). pose proof (is_lipschitz _ _ O z 0) as K.
    rewrite Rminus_0_r in K.
    assert (Q2R (lipschitz (laws a)) * Rabs z <= Q2R (lipschitz (laws a)) * upper_end b)
      by (apply Rmult_le_compat_l; [exact (lipschitz_not_negative _ _ O) | exact H]).
    lra. }
  unfold reach. pose proof (is_above _ _ O) as A. pose proof (is_below _ _ O) as B.
  destruct (lower (laws a)) as [low|], (upper (laws a)) as [high|]; try exact L.
  unfold upper_end; cbn [fst snd holds] in *. rewrite real_most, !real_size, real_zero.
  pose proof (A z). pose proof (B z).
  pose proof (Rmax_l (Rabs (Q2R low)) (Rabs (Q2R high))).
  pose proof (Rmax_r (Rabs (Q2R low)) (Rabs (Q2R high))).
  pose proof (Rle_abs (Q2R high)). pose proof (Rle_abs (- Q2R low)) as N. rewrite Rabs_Ropp in N.
  apply Rabs_le. lra.
Qed.

Lemma pairs_moved_apart : forall a hs es h k rs ss es', below hs h -> apart es h k ->
  forallb (fun r => Nat.eqb (length (fst r)) (length h)) rs = true ->
  forallb (fun r => Nat.eqb (length (fst r)) (length k)) ss = true ->
  pairs_moved a hs es rs ss = Some es' ->
  apart es' (map (meaning other a) (affine rs h)) (map (meaning other a) (affine ss k)).
Proof.
  intros a hs es h k rs ss es' B D. assert (N : length h = length k) by (clear B; induction D; cbn; congruence).
  revert ss es'. induction rs as [|r rs IH]; intros [|s ss] es' R S E; cbn in E; try discriminate.
  - inversion E; subst. constructor.
  - destruct (pairs_moved a hs es rs ss) as [rest|] eqn:F; [|discriminate].
    inversion E; subst. cbn [forallb] in R, S.
    apply andb_true_iff in R as [R R']. apply andb_true_iff in S as [S S'].
    apply Nat.eqb_eq in R, S. constructor; [|apply (IH ss rest R' S' F)].
    apply passed_above. rewrite upper_raised, real_size, real_sub. unfold preactivation.
    pose proof (moved_above (fst r) (fst s) hs es h k ltac:(congruence) B D) as M.
    replace (dot (fst r) h + Q2R (snd r) - (dot (fst s) k + Q2R (snd s)))
      with (Q2R (snd r) - Q2R (snd s) + (dot (fst r) h - dot (fst s) k)) by ring.
    apply Rle_trans with (1 := Rabs_triang _ _). lra.
Qed.

Lemma reach_below : forall a hs h rs, below hs h ->
  below (map (row_reach a hs) rs) (map (meaning other a) (affine rs h)).
Proof.
  intros a hs h rs B. induction rs as [|r rs IH]; constructor; [|exact IH].
  apply reach_above. rewrite upper_raised, real_size. unfold preactivation.
  apply Rle_trans with (1 := Rabs_triang _ _).
  pose proof (dot_bound_above (fst r) hs h B). lra.
Qed.

Theorem gap_above : forall one two hs es h k found,
  below hs h -> apart es h k -> shaped (length h) one = true -> shaped (length k) two = true ->
  gap hs es one two = Some found -> apart found (eval other one h) (eval other two k).
Proof.
  induction one as [|l one IH]; intros [|m two] hs es h k found B D S T E; cbn in E; try discriminate.
  - inversion E; subst. exact D.
  - destruct (same_activation (function l) (function m)) eqn:A; [|discriminate].
    apply same_activation_equal in A.
    destruct (pairs_moved (function l) hs es (rows l) (rows m)) as [es'|] eqn:P; [|discriminate].
    cbn [shaped] in S, T. apply andb_true_iff in S as [S S']. apply andb_true_iff in T as [T T'].
    cbn [eval]. apply (IH two (map (row_reach (function l) hs) (rows l)) es'); [| | | |exact E].
    + apply reach_below, B.
    + unfold applied. rewrite <- A. apply (pairs_moved_apart _ hs es h k _ _ es'); assumption.
    + unfold applied, affine. rewrite !map_length. exact S'.
    + unfold applied, affine. rewrite !map_length. exact T'.
Qed.

End Meaning.
