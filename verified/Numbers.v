(** Rationals that are fast enough, and what they are as real numbers.

    Entries of a matrix share a denominator, so sums of their products need no greatest common
    divisor: [add] takes the short way where denominators are equal or divide each other. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia List Bool.
Import ListNotations.
Open Scope R_scope.

Definition add (x y : Q) : Q :=
  if Pos.eqb (Qden x) (Qden y) then Qmake (Qnum x + Qnum y) (Qden x)
  else
    let p := Zpos (Qden x) in
    let q := Zpos (Qden y) in
    if Z.eqb (q mod p) 0 then Qmake (Qnum x * (q / p) + Qnum y) (Qden y)
    else if Z.eqb (p mod q) 0 then Qmake (Qnum x + Qnum y * (p / q)) (Qden x)
    else Qred (x + y).

Definition mul (x y : Q) : Q := Qmake (Qnum x * Qnum y) (Qden x * Qden y).
Definition sub (x y : Q) : Q := add x (Qopp y).
Definition least (x y : Q) : Q := if Qle_bool x y then x else y.
Definition most (x y : Q) : Q := if Qle_bool x y then y else x.
Definition size (x : Q) : Q := Qmake (Z.abs (Qnum x)) (Qden x).
Definition is_zero (x : Q) : bool := Z.eqb (Qnum x) 0.
Definition negative (x : Q) : bool := Z.ltb (Qnum x) 0.

Lemma add_aligned : forall (a b c : Z) (p q : positive),
  (Zpos q = Zpos p * c)%Z -> (Qmake (a * c + b) q == Qmake a p + Qmake b q)%Q.
Proof.
  intros a b c p q E. unfold Qeq, Qplus; simpl. rewrite Pos2Z.inj_mul, E. ring.
Qed.

Lemma add_plus : forall x y, (add x y == x + y)%Q.
Proof.
  intros [a p] [b q]. unfold add; cbn [Qnum Qden].
  destruct (Pos.eqb_spec p q) as [->|_].
  { unfold Qeq, Qplus; simpl. rewrite Pos2Z.inj_mul. ring. }
  destruct (Z.eqb_spec (Zpos q mod Zpos p) 0) as [E|_].
  { apply add_aligned. apply Z_div_exact_full_2; [discriminate | exact E]. }
  destruct (Z.eqb_spec (Zpos p mod Zpos q) 0) as [E|_].
  { rewrite Qplus_comm, (Z.add_comm a). apply add_aligned.
    apply Z_div_exact_full_2; [discriminate | exact E]. }
  apply Qred_correct.
Qed.

Lemma real_add : forall x y, Q2R (add x y) = Q2R x + Q2R y.
Proof. intros. rewrite <- Q2R_plus. apply Qeq_eqR, add_plus. Qed.

Lemma real_mul : forall x y, Q2R (mul x y) = Q2R x * Q2R y.
Proof. intros. apply Q2R_mult. Qed.

Lemma real_sub : forall x y, Q2R (sub x y) = Q2R x - Q2R y.
Proof. intros. unfold sub. rewrite real_add, Q2R_opp. reflexivity. Qed.

Lemma real_zero : Q2R 0 = 0.
Proof. unfold Q2R; simpl; lra. Qed.

Lemma real_one : Q2R 1 = 1.
Proof. unfold Q2R; simpl; lra. Qed.

Lemma real_is_zero : forall x, is_zero x = true -> Q2R x = 0.
Proof.
  intros [n d] E. apply Z.eqb_eq in E. simpl in E. subst. unfold Q2R; simpl; lra.
Qed.

Lemma real_le : forall x y, Qle_bool x y = true -> Q2R x <= Q2R y.
Proof. intros. apply Qle_Rle, Qle_bool_iff. assumption. Qed.

Lemma real_gt : forall x y, Qle_bool x y = false -> Q2R y < Q2R x.
Proof.
  intros x y E. apply Qlt_Rlt, Qnot_le_lt. intro H. apply Qle_bool_iff in H. congruence.
Qed.

Lemma real_eq : forall x y, Qeq_bool x y = true -> Q2R x = Q2R y.
Proof. intros. apply Qeq_eqR, Qeq_bool_iff. assumption. Qed.

Lemma real_least : forall x y, Q2R (least x y) = Rmin (Q2R x) (Q2R y).
Proof.
  intros. unfold least. destruct (Qle_bool x y) eqn:E.
  - apply real_le in E. rewrite Rmin_left; lra.
  - apply real_gt in E. rewrite Rmin_right; lra.
Qed.

Lemma real_most : forall x y, Q2R (most x y) = Rmax (Q2R x) (Q2R y).
Proof.
  intros. unfold most. destruct (Qle_bool x y) eqn:E.
  - apply real_le in E. rewrite Rmax_right; lra.
  - apply real_gt in E. rewrite Rmax_left; lra.
Qed.

Lemma real_make : forall n d, Q2R (Qmake n d) = IZR n / IZR (Zpos d).
Proof. reflexivity. Qed.

Lemma real_size : forall x, Q2R (size x) = Rabs (Q2R x).
Proof.
  intros [n d]. unfold size; simpl. rewrite !real_make, abs_IZR.
  unfold Rdiv. rewrite Rabs_mult. f_equal. symmetry. apply Rabs_pos_eq.
  left. apply Rinv_0_lt_compat, IZR_lt. reflexivity.
Qed.

Lemma real_sign : forall x, is_zero x = false -> Q2R (size x) > 0.
Proof.
  intros [n d] E. apply Z.eqb_neq in E. simpl in E.
  unfold size; simpl. rewrite real_make.
  apply Rdiv_lt_0_compat; apply IZR_lt; lia.
Qed.

Lemma real_negative : forall x, negative x = true -> Q2R x < 0.
Proof.
  intros [n d] E. apply Z.ltb_lt in E. simpl in E. rewrite real_make.
  apply Ropp_lt_cancel. rewrite Ropp_0. unfold Rdiv. rewrite Ropp_mult_distr_l, <- opp_IZR.
  apply Rdiv_lt_0_compat; apply IZR_lt; lia.
Qed.

Lemma real_not_negative : forall x, negative x = false -> 0 <= Q2R x.
Proof.
  intros [n d] E. apply Z.ltb_ge in E. simpl in E. rewrite real_make.
  apply Rmult_le_pos; [apply IZR_le, E | left; apply Rinv_0_lt_compat, IZR_lt; reflexivity].
Qed.

(** 1 / x in lowest terms; of use where x is not zero. *)
Definition inverse (x : Q) : Q := Qred (Qinv x).

Lemma real_inverse : forall x, is_zero x = false -> Q2R (inverse x) = / Q2R x.
Proof.
  intros x E. unfold inverse.
  rewrite (Qeq_eqR _ _ (Qred_correct _)). apply Q2R_inv.
  intro H. apply Z.eqb_neq in E. destruct x as [n d]. unfold Qeq in H; simpl in *. lia.
Qed.

Lemma real_red : forall x, Q2R (Qred x) = Q2R x.
Proof. intros. apply Qeq_eqR, Qred_correct. Qed.

(** Rationals as real numbers: every operation goes through. *)
Global Hint Rewrite real_add real_mul real_sub real_zero real_one real_size Q2R_opp real_red
  real_least real_most : real.

(** Vectors: lists of rationals (stored) and of reals (values). *)

Fixpoint dot (w : list Q) (h : list R) : R :=
  match w, h with
  | q :: w', x :: h' => Q2R q * x + dot w' h'
  | _, _ => 0
  end.

(** An entry of a stored vector, 0 behind its end. *)
Definition at_ (v : list Q) (i : nat) : R := Q2R (nth i v 0%Q).

Definition scaled (q : Q) (v : list Q) : list Q := map (mul q) v.
Definition opposite (v : list Q) : list Q := map Qopp v.

Fixpoint plus (u v : list Q) : list Q :=
  match u, v with
  | [], _ => v
  | _, [] => u
  | x :: u', y :: v' => add x y :: plus u' v'
  end.

Definition all_zero (v : list Q) : bool := forallb is_zero v.

Fixpoint same (u v : list Q) : bool :=
  match u, v with
  | [], [] => true
  | x :: u', y :: v' => Qeq_bool x y && same u' v'
  | _, _ => false
  end.

Lemma at_nil : forall i, at_ [] i = 0.
Proof. intros [|i]; apply real_zero. Qed.

Lemma at_scaled : forall q v i, at_ (scaled q v) i = Q2R q * at_ v i.
Proof.
  intros q v. induction v as [|x v IH]; intros [|i]; unfold at_ in *; simpl.
  - rewrite real_zero; ring.
  - rewrite real_zero; ring.
  - apply real_mul.
  - apply IH.
Qed.

Lemma at_opposite : forall v i, at_ (opposite v) i = - at_ v i.
Proof.
  intros v. induction v as [|x v IH]; intros [|i]; unfold at_ in *; simpl.
  - rewrite real_zero; ring.
  - rewrite real_zero; ring.
  - apply Q2R_opp.
  - apply IH.
Qed.

Lemma at_plus : forall u v i, at_ (plus u v) i = at_ u i + at_ v i.
Proof.
  induction u as [|x u IH]; intros [|y v] [|i]; unfold at_ in *; simpl;
    rewrite ?real_zero, ?real_add, ?IH; ring.
Qed.

Lemma at_all_zero : forall v i, all_zero v = true -> at_ v i = 0.
Proof.
  induction v as [|x v IH]; intros i E.
  - apply at_nil.
  - simpl in E. apply andb_true_iff in E as [E F]. destruct i as [|i].
    + apply real_is_zero, E.
    + apply (IH i F).
Qed.

Lemma dot_zero : forall w h, all_zero w = true -> dot w h = 0.
Proof.
  induction w as [|q w IH]; intros [|x h] E; simpl in *; try reflexivity.
  apply andb_true_iff in E as [E F]. rewrite (real_is_zero _ E), (IH _ F). ring.
Qed.

Lemma dot_same : forall u v h, same u v = true -> dot u h = dot v h.
Proof.
  induction u as [|x u IH]; intros [|y v] [|z h] E; simpl in *; try discriminate; try reflexivity.
  apply andb_true_iff in E as [E F]. rewrite (real_eq _ _ E), (IH _ _ F). reflexivity.
Qed.

Lemma dot_scaled : forall q w h, dot (scaled q w) h = Q2R q * dot w h.
Proof.
  intros q. induction w as [|p w IH]; intros [|x h]; simpl; try ring.
  rewrite real_mul. unfold scaled in IH. rewrite IH. ring.
Qed.

Lemma dot_opposite : forall w h, dot (opposite w) h = - dot w h.
Proof.
  induction w as [|p w IH]; intros [|x h]; simpl; try ring.
  rewrite Q2R_opp. unfold opposite in IH. rewrite IH. ring.
Qed.

Lemma dot_plus : forall u v h, dot (plus u v) h = dot u h + dot v h.
Proof.
  induction u as [|x u IH]; intros [|y v] [|z h]; simpl; try ring.
  rewrite real_add, IH. ring.
Qed.
