(** Activations: functions of one real number, and the laws that the checker uses.

    Functions that are built from lines, tanh, the sigmoid, sine and softplus are defined here, and their laws are
    theorems. Others ([Other]) are any functions that satisfy the laws in [laws]: hypotheses of the
    main theorem. *)

From Coq Require Import QArith Qreals Reals Lra List Bool.
From Moduli Require Import Numbers.
Open Scope R_scope.

Inductive smooth := Erf | Gelu | GeluTanh | Silu | Hardswish | Mish | Elu (alpha : Q).

Inductive activation :=
| Kinked (slope : Q)  (* z for z >= 0, slope z below: relu, leaky relu, abs, the identity *)
| Clip (low high : Q)
| Tanh
| Sigmoid
| Sine
| Softplus
| Other (name : smooth).

Definition identity := Kinked 1.

Definition relu (z : R) : R := Rmax z 0.
Definition kinked (slope z : R) : R := Rmax z 0 + slope * Rmin z 0.
Definition clip (low high z : R) : R := Rmax low (Rmin z high).
Definition sigmoid (z : R) : R := / (1 + exp (- z)).
Definition softplus (z : R) : R := ln (1 + exp z).

(** What [Other] names mean is given by a function of names. *)
Definition meaning (other : smooth -> R -> R) (a : activation) : R -> R :=
  match a with
  | Kinked slope => kinked (Q2R slope)
  | Clip low high => clip (Q2R low) (Q2R high)
  | Tanh => tanh
  | Sigmoid => sigmoid
  | Sine => sin
  | Softplus => softplus
  | Other name => other name
  end.

(** The laws that are used. [reflection]: s(-z) = sign s(z) + slope z + offset. *)
Record law := Law {
  lipschitz : Q;
  at_zero : Q;  (* a bound of |s(0)| *)
  zero_value : option Q;  (* s(0), where it is known *)
  lower : option Q;
  upper : option Q;
  reflection : option (Q * Q * Q)
}.

Definition odd := Some (-1, 0, 0)%Q.
Definition ramp := Some (1, -1, 0)%Q.

Definition smooth_law (name : smooth) : law :=
  match name with
  | Erf => Law (1129 # 1000) 0 (Some 0%Q) (Some (-1)%Q) (Some 1%Q) odd
  | Gelu => Law (1129 # 1000) 0 (Some 0%Q) None None ramp
  | GeluTanh => Law (113 # 100) 0 (Some 0%Q) None None ramp
  | Silu => Law (11 # 10) 0 (Some 0%Q) None None ramp
  | Hardswish => Law (3 # 2) 0 (Some 0%Q) (Some (-3 # 8)%Q) None ramp
  | Mish => Law (23 # 20) 0 (Some 0%Q) None None None
  | Elu alpha => Law (most 1 (size alpha)) 0 (Some 0%Q) (Some (least (Qopp alpha) 0)) None None
  end.

Definition laws (a : activation) : law :=
  match a with
  | Kinked slope =>
      Law (most 1 (size slope)) 0 (Some 0%Q) (if Qle_bool slope 0 then Some 0%Q else None) None None
  | Clip low high => Law 1 (most (size low) (size high)) None (Some low) (Some (most low high)) None
  | Tanh => Law 1 0 (Some 0%Q) (Some (-1)%Q) (Some 1%Q) odd
  | Sigmoid => Law (1 # 4) (1 # 2) (Some (1 # 2)%Q) (Some 0%Q) (Some 1%Q) (Some (-1, 0, 1)%Q)
  | Sine => Law 1 0 (Some 0%Q) (Some (-1)%Q) (Some 1%Q) odd
  | Softplus => Law 1 (7 # 10) None (Some 0%Q) None ramp
  | Other name => smooth_law name
  end.

Definition holds {A} (P : A -> Prop) (o : option A) : Prop :=
  match o with Some x => P x | None => True end.

Record obeys (l : law) (s : R -> R) : Prop := Obeys {
  is_lipschitz : forall x y, Rabs (s x - s y) <= Q2R (lipschitz l) * Rabs (x - y);
  is_small_at_zero : Rabs (s 0) <= Q2R (at_zero l);
  has_zero_value : holds (fun q => s 0 = Q2R q) (zero_value l);
  is_above : holds (fun q => forall z, Q2R q <= s z) (lower l);
  is_below : holds (fun q => forall z, s z <= Q2R q) (upper l);
  reflects : holds (fun c => let '(sign, slope, offset) := c in
      forall z, s (- z) = Q2R sign * s z + Q2R slope * z + Q2R offset) (reflection l)
}.

(** Lines ----------------------------------------------------------------------------------------- *)

Ltac cases := unfold kinked, relu, clip, Rmax, Rmin, Rabs in *;
  repeat match goal with
  | |- context [Rle_dec ?a ?b] => destruct (Rle_dec a b)
  | |- context [Rcase_abs ?a] => destruct (Rcase_abs a)
  | H : context [Rle_dec ?a ?b] |- _ => destruct (Rle_dec a b)
  end;
  repeat match goal with H : ~ _ <= _ |- _ => apply Rnot_le_lt in H end.

Lemma relu_scaled : forall t z, 0 < t -> relu (t * z) = t * relu z.
Proof.
  intros t z H. unfold relu. pose proof (RmaxRmult z 0 t (Rlt_le _ _ H)) as E.
  rewrite Rmult_0_r in E. exact E.
Qed.

Lemma relu_turned : forall z, relu z = relu (- z) + z.
Proof. intros. cases; lra. Qed.

Lemma kinked_relu : forall a z, kinked a z = (1 - a) * relu z + a * z.
Proof. intros. unfold kinked, relu, Rmax, Rmin. destruct (Rle_dec z 0); ring. Qed.

Lemma kinked_identity : forall z, kinked 1 z = z.
Proof. intros. rewrite kinked_relu. ring. Qed.

Lemma clip_relus : forall low high z, low <= high ->
  clip low high z = low + relu (z - low) - relu (z - high).
Proof. intros. cases; lra. Qed.

Lemma relu_lipschitz : forall x y, Rabs (relu x - relu y) <= Rabs (x - y).
Proof. intros. cases; lra. Qed.

Lemma kinked_lipschitz : forall a x y,
  Rabs (kinked a x - kinked a y) <= Rmax 1 (Rabs a) * Rabs (x - y).
Proof.
  intros a x y.
  (* of the two pieces one is taken at either point, so both differences have one sign *)
  set (p := Rmax x 0 - Rmax y 0). set (n := Rmin x 0 - Rmin y 0).
  assert (S : x - y = p + n) by (unfold p, n; cases; lra).
  assert (T : Rabs (p + n) = Rabs p + Rabs n) by (unfold p, n; cases; lra).
  assert (E : kinked a x - kinked a y = p + a * n) by (unfold kinked, p, n; ring).
  rewrite E, S, T.
  apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult.
  assert (Rabs p * 1 <= Rabs p * Rmax 1 (Rabs a))
    by (apply Rmult_le_compat_l; [apply Rabs_pos | apply Rmax_l]).
  assert (Rabs a * Rabs n <= Rmax 1 (Rabs a) * Rabs n)
    by (apply Rmult_le_compat_r; [apply Rabs_pos | apply Rmax_r]).
  lra.
Qed.

Lemma kinked_obeys : forall a, obeys (laws (Kinked a)) (kinked (Q2R a)).
Proof.
  intros a. split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds].
  - intros. autorewrite with real. apply kinked_lipschitz.
  - rewrite real_zero. rewrite kinked_relu. replace (relu 0) with 0 by (cases; lra).
    rewrite !Rmult_0_r, Rplus_0_r, Rabs_R0. lra.
  - rewrite real_zero, kinked_relu. replace (relu 0) with 0 by (cases; lra). ring.
  - destruct (Qle_bool a 0) eqn:E; cbn [holds]; trivial. intros z.
    apply real_le in E. rewrite real_zero in *. unfold kinked.
    assert (0 <= - Q2R a * - Rmin z 0) by (apply Rmult_le_pos; cases; lra).
    assert (0 <= Rmax z 0) by (cases; lra). lra.
  - exact I.
  - exact I.
Qed.

Lemma clip_obeys : forall low high, obeys (laws (Clip low high)) (clip (Q2R low) (Q2R high)).
Proof.
  intros low high. set (l := Q2R low). set (h := Q2R high).
  split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds]; trivial.
  - intros. autorewrite with real. rewrite Rmult_1_l. cases; lra.
  - autorewrite with real. fold l h. cases; lra.
  - intros. fold l. cases; lra.
  - intros. autorewrite with real. fold l h. cases; lra.
Qed.

(** tanh and the sigmoid -------------------------------------------------------------------------- *)

Lemma cosh_positive : forall z, 0 < cosh z.
Proof. intros. unfold cosh. pose proof (exp_pos z). pose proof (exp_pos (- z)). lra. Qed.

Lemma tanh_odd : forall z, tanh (- z) = - tanh z.
Proof.
  intros. unfold tanh, sinh, cosh. rewrite Ropp_involutive.
  pose proof (exp_pos z). pose proof (exp_pos (- z)). field. lra.
Qed.

(** tanh z = 1 - 2 / (e^(2 z) + 1) *)
Lemma tanh_exp : forall z, tanh z = 1 - 2 / (exp (2 * z) + 1).
Proof.
  intros. unfold tanh, sinh, cosh.
  replace (2 * z) with (z + z) by ring. rewrite exp_plus, exp_Ropp.
  pose proof (exp_pos z). assert (0 < exp z * exp z) by (apply Rmult_lt_0_compat; lra).
  field. lra.
Qed.

Lemma tanh_bounded : forall z, -1 <= tanh z <= 1.
Proof.
  intros. rewrite tanh_exp. pose proof (exp_pos (2 * z)).
  assert (0 < 2 / (exp (2 * z) + 1)) by (apply Rdiv_lt_0_compat; lra).
  assert (2 / (exp (2 * z) + 1) <= 2).
  { replace 2 with (2 * / 1) at 3 by field. apply Rmult_le_compat_l; [lra|].
    apply Rinv_le_contravar; lra. }
  lra.
Qed.

Lemma tanh_derivative : forall z, derivable_pt_lim tanh z (1 - tanh z * tanh z).
Proof.
  intros z. pose proof (cosh_positive z) as P.
  replace (1 - tanh z * tanh z) with ((cosh z * cosh z - sinh z * sinh z) / (Rsqr (cosh z))).
  - apply (derivable_pt_lim_div sinh cosh z); [| |lra].
    + apply derivable_pt_lim_sinh.
    + apply derivable_pt_lim_cosh.
  - unfold tanh, Rsqr. field. lra.
Qed.

Lemma lipschitz_of_derivative : forall (s s' : R -> R) (k : R),
  (forall z, derivable_pt_lim s z (s' z)) -> (forall z, Rabs (s' z) <= k) ->
  forall x y, Rabs (s x - s y) <= k * Rabs (x - y).
Proof.
  intros s s' k D B.
  assert (W : forall x y, x < y -> Rabs (s x - s y) <= k * Rabs (x - y)).
  { intros x y L. destruct (MVT_cor2 s s' x y L) as [c [E _]]; [intros; apply D|].
    rewrite Rabs_minus_sym, (Rabs_minus_sym x), E, Rabs_mult.
    apply Rmult_le_compat_r; [apply Rabs_pos | apply B]. }
  intros x y. destruct (Rtotal_order x y) as [L|[->|G]].
  - apply W, L.
  - unfold Rminus. rewrite !Rplus_opp_r, Rabs_R0. lra.
  - rewrite Rabs_minus_sym, (Rabs_minus_sym x). apply W, G.
Qed.

Lemma tanh_lipschitz : forall x y, Rabs (tanh x - tanh y) <= 1 * Rabs (x - y).
Proof.
  apply (lipschitz_of_derivative tanh (fun z => 1 - tanh z * tanh z)).
  - apply tanh_derivative.
  - intros z. pose proof (tanh_bounded z). apply Rabs_le.
    assert (0 <= tanh z * tanh z) by apply Rle_0_sqr.
    assert (0 <= (1 - tanh z) * (1 + tanh z)) by (apply Rmult_le_pos; lra). lra.
Qed.

Lemma tanh_zero : tanh 0 = 0.
Proof. unfold tanh. rewrite sinh_0. unfold Rdiv. ring. Qed.

Lemma sigmoid_tanh : forall z, sigmoid z = / 2 + / 2 * tanh (/ 2 * z).
Proof.
  intros. rewrite tanh_exp. unfold sigmoid. rewrite exp_Ropp.
  replace (2 * (/ 2 * z)) with z by field. pose proof (exp_pos z). field. lra.
Qed.

Lemma tanh_obeys : obeys (laws Tanh) tanh.
Proof.
  split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds odd].
  - rewrite real_one. apply tanh_lipschitz.
  - rewrite tanh_zero, Rabs_R0, real_zero. lra.
  - rewrite real_zero. apply tanh_zero.
  - intros. pose proof (tanh_bounded z). unfold Q2R; simpl; lra.
  - intros. pose proof (tanh_bounded z). unfold Q2R; simpl; lra.
  - intros. rewrite tanh_odd. unfold Q2R; simpl; lra.
Qed.

Lemma sigmoid_obeys : obeys (laws Sigmoid) sigmoid.
Proof.
  split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds].
  - intros. rewrite !sigmoid_tanh.
    replace (/ 2 + / 2 * tanh (/ 2 * x) - (/ 2 + / 2 * tanh (/ 2 * y)))
      with (/ 2 * (tanh (/ 2 * x) - tanh (/ 2 * y))) by ring.
    rewrite Rabs_mult. pose proof (tanh_lipschitz (/ 2 * x) (/ 2 * y)) as L.
    replace (/ 2 * x - / 2 * y) with (/ 2 * (x - y)) in L by ring. rewrite Rabs_mult in L.
    rewrite (Rabs_pos_eq (/ 2)) in * by lra. unfold Q2R; simpl. lra.
  - rewrite sigmoid_tanh, Rmult_0_r, tanh_zero. unfold Q2R; simpl. rewrite Rabs_pos_eq; lra.
  - rewrite sigmoid_tanh, Rmult_0_r, tanh_zero. unfold Q2R; simpl. lra.
  - intros. rewrite sigmoid_tanh. pose proof (tanh_bounded (/ 2 * z)). unfold Q2R; simpl; lra.
  - intros. rewrite sigmoid_tanh. pose proof (tanh_bounded (/ 2 * z)). unfold Q2R; simpl; lra.
  - intros. rewrite !sigmoid_tanh. replace (/ 2 * - z) with (- (/ 2 * z)) by ring.
    rewrite tanh_odd. unfold Q2R; simpl. lra.
Qed.

(** sine and softplus ----------------------------------------------------------------------------- *)

Lemma sin_obeys : obeys (laws Sine) sin.
Proof.
  split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds odd].
  - rewrite real_one. apply (lipschitz_of_derivative sin cos).
    + apply derivable_pt_lim_sin.
    + intros z. apply Rabs_le, COS_bound.
  - rewrite sin_0, Rabs_R0, real_zero. lra.
  - rewrite real_zero. apply sin_0.
  - intros. pose proof (SIN_bound z). unfold Q2R; simpl; lra.
  - intros. pose proof (SIN_bound z). unfold Q2R; simpl; lra.
  - intros. rewrite sin_neg. unfold Q2R; simpl; lra.
Qed.

Lemma ln_monotone : forall x y, 0 < x -> x <= y -> ln x <= ln y.
Proof.
  intros x y P [L|E]; [left; apply ln_increasing; assumption | rewrite E; lra].
Qed.

(** e^(7/10) > 2, by 1 + r <= e^r for r = 7/640 and six squarings. *)
Lemma ln_2 : ln 2 <= 7 / 10.
Proof.
  assert (D : forall r a b, 0 <= a -> a <= exp r -> b <= a * a -> b <= exp (r + r)).
  { intros r a b P A B. rewrite exp_plus. apply Rle_trans with (1 := B).
    apply Rmult_le_compat; assumption. }
  rewrite <- (ln_exp (7 / 10)). apply ln_monotone; [lra|].
  replace (7 / 10) with (7 / 20 + 7 / 20) by field. apply (D _ 1.41619); [lra| |lra].
  replace (7 / 20) with (7 / 40 + 7 / 40) by field. apply (D _ 1.19004); [lra| |lra].
  replace (7 / 40) with (7 / 80 + 7 / 80) by field. apply (D _ 1.09089); [lra| |lra].
  replace (7 / 80) with (7 / 160 + 7 / 160) by field. apply (D _ 1.04446); [lra| |lra].
  replace (7 / 160) with (7 / 320 + 7 / 320) by field. apply (D _ 1.02199); [lra| |lra].
  replace (7 / 320) with (7 / 640 + 7 / 640) by field. apply (D _ 1.0109375); [lra| |lra].
  apply Rle_trans with (2 := exp_ineq1_le _). lra.
Qed.

Lemma softplus_step : forall x y, y <= x -> softplus y <= softplus x <= softplus y + (x - y).
Proof.
  intros x y L. unfold softplus. pose proof (exp_pos x) as X. pose proof (exp_pos y) as Y.
  assert (M : exp y <= exp x) by (destruct L as [L|E]; [left; apply exp_increasing, L | rewrite E; lra]).
  split; [apply ln_monotone; lra|].
  rewrite <- (ln_exp (x - y)) at 1. rewrite <- ln_mult by (try apply exp_pos; lra).
  apply ln_monotone; [lra|].
  (* (1 + e^y) e^(x - y) = e^(x - y) + e^x *)
  replace ((1 + exp y) * exp (x - y)) with (exp (x - y) + exp x).
  - pose proof (exp_ineq1_le (x - y)). lra.
  - rewrite Rmult_plus_distr_r, <- exp_plus. replace (y + (x - y)) with x by ring. ring.
Qed.

Lemma softplus_obeys : obeys (laws Softplus) softplus.
Proof.
  assert (P : forall z, 0 <= softplus z).
  { intros z. unfold softplus. rewrite <- ln_1. pose proof (exp_pos z). apply ln_monotone; lra. }
  split; cbn [laws lipschitz at_zero zero_value lower upper reflection holds ramp]; trivial.
  - intros x y. rewrite real_one. destruct (Rle_dec y x) as [L|L].
    + pose proof (softplus_step x y L). rewrite !Rabs_pos_eq; lra.
    + pose proof (softplus_step y x ltac:(lra)).
      rewrite Rabs_minus_sym, (Rabs_minus_sym x), !Rabs_pos_eq; lra.
  - rewrite Rabs_pos_eq by apply P. unfold softplus. rewrite exp_0.
    replace (1 + 1) with 2 by ring. pose proof ln_2. unfold Q2R; simpl; lra.
  - intros. rewrite real_zero. apply P.
  - intros z. unfold softplus. pose proof (exp_pos z). pose proof (exp_pos (- z)).
    replace (1 + exp (- z)) with ((1 + exp z) * exp (- z)).
    + rewrite ln_mult, ln_exp by lra. unfold Q2R; simpl; lra.
    + rewrite Rmult_plus_distr_r, <- exp_plus, Rplus_opp_r, exp_0. ring.
Qed.

(** All of them. *)
Definition lawful (other : smooth -> R -> R) : Prop := forall name, obeys (smooth_law name) (other name).

Theorem meaning_obeys : forall other a, lawful other -> obeys (laws a) (meaning other a).
Proof.
  intros other [a|low high| | | | |name] H; cbn [laws meaning].
  - apply kinked_obeys.
  - apply clip_obeys.
  - apply tanh_obeys.
  - apply sigmoid_obeys.
  - apply sin_obeys.
  - apply softplus_obeys.
  - apply H.
Qed.
