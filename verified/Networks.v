(** Networks: lists of layers, as functions of real inputs; and how far a change of pre-activations
    reaches. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
From Moduli Require Import Numbers Activations.
Import ListNotations.
Open Scope R_scope.

Definition row : Set := (list Q * Q)%type.  (* weights, bias *)
Record layer := Layer { rows : list row; function : activation }.
Definition network := list layer.  (* the last layer has the activation [identity] *)

Definition preactivation (h : list R) (r : row) : R := dot (fst r) h + Q2R (snd r).
Definition affine (rs : list row) (h : list R) : list R := map (preactivation h) rs.

Section Meaning.

Variable other : smooth -> R -> R.

Definition applied (l : layer) (h : list R) : list R := map (meaning other (function l)) (affine (rows l) h).

Fixpoint eval (net : network) (x : list R) : list R :=
  match net with [] => x | l :: rest => eval rest (applied l x) end.

End Meaning.

(** Whether every layer reads as many values as the layer before has rows, the first one n. *)
Fixpoint shaped (n : nat) (net : network) : bool :=
  match net with
  | [] => true
  | l :: rest =>
      forallb (fun r => Nat.eqb (length (fst r)) n) (rows l) && shaped (length (rows l)) rest
  end.

(** A syntactic equality, so that it is one for any meaning. *)
Definition same_number (x y : Q) : bool := Z.eqb (Qnum x) (Qnum y) && Pos.eqb (Qden x) (Qden y).

Definition same_smooth (s t : smooth) : bool :=
  match s, t with
  | Erf, Erf | Gelu, Gelu | GeluTanh, GeluTanh | Silu, Silu => true
  | Hardswish, Hardswish | Mish, Mish => true
  | Elu a, Elu b => same_number a b
  | _, _ => false
  end.

Definition same_activation (s t : activation) : bool :=
  match s, t with
  | Kinked a, Kinked b => same_number a b
  | Clip a b, Clip c d => same_number a c && same_number b d
  | Tanh, Tanh | Sigmoid, Sigmoid | Sine, Sine | Softplus, Softplus => true
  | Other a, Other b => same_smooth a b
  | _, _ => false
  end.

Lemma same_number_equal : forall x y, same_number x y = true -> x = y.
Proof.
  intros [a p] [b q] E. apply andb_true_iff in E as [E F]; cbn [Qnum Qden] in *.
  apply Z.eqb_eq in E. apply Pos.eqb_eq in F. congruence.
Qed.

Lemma same_activation_equal : forall s t, same_activation s t = true -> s = t.
Proof.
  intros [a|a b| | | | |s] [c|c d| | | | |t] E; cbn in E; try discriminate; try reflexivity.
  - apply same_number_equal in E. congruence.
  - apply andb_true_iff in E as [E F]. apply same_number_equal in E, F. congruence.
  - destruct s, t; cbn in E; try discriminate; try reflexivity.
    apply same_number_equal in E. congruence.
Qed.

(** An entry of a vector of values, 0 behind its end. *)
Definition val (h : list R) (i : nat) : R := nth i h 0.

(** u and v are apart by at most e, entry by entry. *)
Definition within (e : list Q) (u v : list R) : Prop :=
  length u = length v /\ forall i, Rabs (val u i - val v i) <= at_ e i.

Fixpoint product (w e : list Q) : Q :=
  match w, e with
  | q :: w', x :: e' => add (mul (size q) x) (product w' e')
  | _, _ => 0%Q
  end.

(** Bounds of what pre-activations of a layer that are off by e do to the outputs. *)
Fixpoint propagated (e : list Q) (a : activation) (rest : network) : list Q :=
  let e' := scaled (lipschitz (laws a)) e in
  match rest with
  | [] => e'
  | l :: rest' => propagated (map (fun r => product (fst r) e') (rows l)) (function l) rest'
  end.

Lemma within_tail : forall e x u y v, within e (x :: u) (y :: v) -> within (tl e) u v.
Proof.
  intros e x u y v [L H]. split; [now inversion L|].
  intros i. specialize (H (S i)). destruct e as [|q e]; [|exact H].
  cbn [tl]. rewrite at_nil in *. exact H.
Qed.

Lemma within_nil : forall u v, within [] u v -> u = v.
Proof.
  induction u as [|x u IH]; intros [|y v] [L H]; try discriminate; [reflexivity|].
  f_equal.
  - specialize (H O). cbn in H. rewrite at_nil in H.
    assert (Rabs (x - y) = 0) as E by (apply Rle_antisym; [exact H | apply Rabs_pos]).
    destruct (Req_dec x y) as [|N]; [assumption|].
    exfalso. apply (Rabs_no_R0 (x - y)); lra.
  - apply IH. apply (within_tail [] x u y v). split; assumption.
Qed.

Lemma product_bounds : forall w e u v, within e u v ->
  Rabs (dot w u - dot w v) <= Q2R (product w e).
Proof.
  induction w as [|q w IH]; intros e u v H.
  - cbn. rewrite Rminus_diag_eq, Rabs_R0, real_zero; lra.
  - destruct e as [|x e].
    { apply within_nil in H. subst. cbn. rewrite Rminus_diag_eq, Rabs_R0, real_zero; lra. }
    destruct u as [|a u], v as [|b v]; try (destruct H; discriminate).
    + cbn. rewrite Rminus_diag_eq, Rabs_R0 by reflexivity.
      (* e bounds a distance of nothing; its entries are not negative *)
      destruct H as [_ H]. cbn. autorewrite with real.
      assert (P : forall i, 0 <= at_ (x :: e) i)
        by (intros i; specialize (H i); pose proof (Rabs_pos (val [] i - val [] i)); lra).
      assert (Q0 := P O). unfold at_ in Q0; cbn in Q0.
      assert (T : 0 <= Q2R (product w e)).
      { specialize (IH e [] []). rewrite Rminus_diag_eq, Rabs_R0 in IH by reflexivity.
        apply IH. split; [reflexivity|]. intros i. specialize (H (S i)).
        replace (val [] i) with 0 by (destruct i; reflexivity).
        replace (val [] (S i)) with 0 in H by reflexivity. exact H. }
      assert (0 <= Rabs (Q2R q) * Q2R x) by (apply Rmult_le_pos; [apply Rabs_pos | exact Q0]). lra.
    + cbn [dot product]. autorewrite with real.
      pose proof (IH _ _ _ (within_tail _ _ _ _ _ H)) as T. cbn [tl] in T.
      destruct H as [_ H]. specialize (H O). unfold at_, val in H; cbn in H.
      replace (Q2R q * a + dot w u - (Q2R q * b + dot w v))
        with (Q2R q * (a - b) + (dot w u - dot w v)) by ring.
      apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult.
      assert (Rabs (Q2R q) * Rabs (a - b) <= Rabs (Q2R q) * Q2R x)
        by (apply Rmult_le_compat_l; [apply Rabs_pos | exact H]).
      lra.
Qed.

Lemma val_map : forall (f : R -> R) u i, (i < length u)%nat -> val (map f u) i = f (val u i).
Proof.
  intros f u i L. unfold val. rewrite nth_indep with (d' := f 0) by (rewrite map_length; exact L).
  apply map_nth.
Qed.

Lemma val_beyond : forall u i, (length u <= i)%nat -> val u i = 0.
Proof. intros. apply nth_overflow. assumption. Qed.

Lemma within_map : forall l s e u v, obeys l s -> within e u v ->
  within (scaled (lipschitz l) e) (map s u) (map s v).
Proof.
  intros l s e u v O [L H]. split; [rewrite !map_length; exact L|].
  intros i. rewrite at_scaled. specialize (H i).
  assert (0 <= Q2R (lipschitz l)).
  { pose proof (is_lipschitz _ _ O 1 0) as B. rewrite Rminus_0_r, Rabs_R1, Rmult_1_r in B.
    apply Rle_trans with (2 := B). apply Rabs_pos. }
  destruct (Nat.lt_ge_cases i (length u)) as [I|I].
  - rewrite !val_map by (congruence || lia).
    apply Rle_trans with (1 := is_lipschitz _ _ O _ _). apply Rmult_le_compat_l; assumption.
  - rewrite !val_beyond by (rewrite map_length; lia).
    rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. rewrite !val_beyond in H by lia.
    rewrite Rminus_diag_eq, Rabs_R0 in H by reflexivity. apply Rmult_le_pos; assumption.
Qed.

Lemma within_affine : forall rs e u v, within e u v ->
  within (map (fun r => product (fst r) e) rs) (affine rs u) (affine rs v).
Proof.
  intros rs e u v H. split; [unfold affine; rewrite !map_length; reflexivity|].
  induction rs as [|r rs IH]; intros i.
  - destruct i; cbn; rewrite at_nil, Rminus_diag_eq, Rabs_R0 by reflexivity; lra.
  - destruct i as [|i]; [|apply (IH i)].
    unfold val, at_; cbn. unfold preactivation.
    replace (dot (fst r) u + Q2R (snd r) - (dot (fst r) v + Q2R (snd r)))
      with (dot (fst r) u - dot (fst r) v) by ring.
    apply product_bounds, H.
Qed.

Section Reach.

Variable other : smooth -> R -> R.
Hypothesis other_lawful : lawful other.

Lemma propagated_bounds : forall rest a e u v, within e u v ->
  within (propagated e a rest)
    (eval other rest (map (meaning other a) u)) (eval other rest (map (meaning other a) v)).
Proof.
  induction rest as [|l rest IH]; intros a e u v H; cbn [propagated eval];
    pose proof (within_map _ _ _ _ _ (meaning_obeys other a other_lawful) H) as M.
  - exact M.
  - apply IH, within_affine, M.
Qed.

End Reach.
