(** Rationals around tanh q, for a rational q: from 1 + r <= e^r <= 1 / (1 - r) with r = y / 2^200, by
    200 squarings in integers over [unit], rounded down or up. *)

From Coq Require Import ZArith QArith Qreals Reals Lra Lia.
From Moduli Require Import Numbers Activations.
Open Scope R_scope.

Definition halvings : nat := 200.
Definition parts : Z := 2 ^ 200.
Definition unit : Z := 2 ^ 440.
Definition far : Q := 400.

Fixpoint squared (up : Z) (n : nat) (z : Z) : Z :=
  match n with O => z | S m => squared up m (z * z / unit + up)%Z end.

(** For 0 <= y <= far: e^y is between these over [unit]. *)
Definition exp_low (y : Q) : Z :=
  let d := (Zpos (Qden y) * parts)%Z in squared 0 halvings (unit * (d + Qnum y) / d)%Z.
Definition exp_high (y : Q) : Z :=
  let d := (Zpos (Qden y) * parts)%Z in squared 1 halvings (unit * d / (d - Qnum y) + 1)%Z.

(** For q >= 0: rationals with 0 <= low <= tanh q <= high. *)
Definition tanh_from (z up : Z) : Q := Qmake ((z - unit) * unit / (z + unit) + up) (Z.to_pos unit).
Definition tanh_positive (q : Q) : Q * Q :=
  let y := mul 2 q in
  if Qle_bool y far then (tanh_from (exp_low y) 0, tanh_from (exp_high y) 1)
  else (tanh_from (exp_low far) 0, 1%Q).

Definition tanh_between (q : Q) : Q * Q :=
  if negative q then let (low, high) := tanh_positive (Qopp q) in (Qopp high, Qopp low)
  else tanh_positive q.

Lemma unit_positive : 0 < IZR unit.
Proof. apply IZR_lt. reflexivity. Qed.

Lemma cancelled : forall a, a / IZR unit * IZR unit = a.
Proof. intros. pose proof unit_positive. field. lra. Qed.

Lemma floor : forall a b, (0 < b)%Z -> IZR (a / b) <= IZR a / IZR b < IZR (a / b) + 1.
Proof.
  intros a b P. assert (0 < IZR b) by (apply IZR_lt; assumption).
  pose proof (Z_div_mod_eq_full a b) as E. pose proof (Z.mod_pos_bound a b P) as [M N].
  apply IZR_le in M. apply IZR_lt in N. apply (f_equal IZR) in E.
  rewrite plus_IZR, mult_IZR in E. set (q := IZR (a / b)) in *. set (r := IZR (a mod b)) in *.
  replace (IZR a / IZR b) with (q + r / IZR b) by (rewrite E; field; lra).
  assert (0 <= r / IZR b) by (apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra]).
  assert (r / IZR b < 1).
  { apply Rmult_lt_reg_r with (IZR b); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l; lra. }
  lra.
Qed.

Lemma double_nat : forall n y, 2 ^ n * (2 * y) = 2 ^ S n * y.
Proof. intros. simpl. ring. Qed.

Lemma squared_low : forall n z r,
  0 <= IZR z <= IZR unit * exp r -> 0 <= IZR (squared 0 n z) <= IZR unit * exp (2 ^ n * r).
Proof.
  pose proof unit_positive as U.
  induction n as [|n IH]; intros z r H; cbn [squared].
  - rewrite pow_O, Rmult_1_l. exact H.
  - rewrite <- double_nat. apply IH. rewrite Z.add_0_r.
    assert (Zz : (0 <= z)%Z) by (apply le_IZR; lra).
    split.
    + apply IZR_le, Z.div_pos; [nia | reflexivity].
    + destruct (floor (z * z) unit eq_refl) as [F _].
      apply Rle_trans with (1 := F). rewrite mult_IZR.
      replace (2 * r) with (r + r) by ring. rewrite exp_plus.
      apply Rmult_le_reg_r with (IZR unit); [exact U|].
      rewrite cancelled.
      replace (IZR unit * (exp r * exp r) * IZR unit)
        with ((IZR unit * exp r) * (IZR unit * exp r)) by ring.
      apply Rmult_le_compat; lra.
Qed.

Lemma squared_high : forall n z r,
  IZR unit * exp r <= IZR z -> IZR unit * exp (2 ^ n * r) <= IZR (squared 1 n z).
Proof.
  pose proof unit_positive as U.
  induction n as [|n IH]; intros z r H; cbn [squared].
  - rewrite pow_O, Rmult_1_l. exact H.
  - rewrite <- double_nat. apply IH.
    destruct (floor (z * z) unit eq_refl) as [_ F].
    rewrite plus_IZR. rewrite mult_IZR in F.
    apply Rle_trans with (2 := Rlt_le _ _ F).
    replace (2 * r) with (r + r) by ring. rewrite exp_plus.
    apply Rmult_le_reg_r with (IZR unit); [exact U|].
    rewrite cancelled.
    replace (IZR unit * (exp r * exp r) * IZR unit)
      with ((IZR unit * exp r) * (IZR unit * exp r)) by ring.
    assert (0 < IZR unit * exp r) by (apply Rmult_lt_0_compat; [exact U | apply exp_pos]).
    apply Rmult_le_compat; lra.
Qed.

Lemma parts_power : IZR parts = 2 ^ halvings.
Proof. unfold parts, halvings. rewrite (pow_IZR 2 200). reflexivity. Qed.

Lemma whole : forall n d, 2 ^ halvings * (IZR n / IZR (d * parts)) = IZR n / IZR d.
Proof.
  intros. rewrite mult_IZR, parts_power. unfold Rdiv.
  assert (2 ^ halvings <> 0) by (apply pow_nonzero; lra).
  destruct (Z.eq_dec d 0) as [->|N].
  - rewrite Rmult_0_l, Rinv_0. ring.
  - apply IZR_neq in N. field. auto.
Qed.

Lemma exp_low_below : forall y, 0 <= Q2R y ->
  0 <= IZR (exp_low y) <= IZR unit * exp (Q2R y).
Proof.
  intros [n d] P. unfold exp_low; cbn [Qnum Qden]. rewrite real_make in *.
  rewrite <- whole. apply squared_low.
  assert (D : (0 < Zpos d * parts)%Z) by reflexivity.
  assert (D' := IZR_lt _ _ D).
  assert (N : (0 <= n)%Z).
  { apply le_IZR. apply Rmult_le_reg_r with (/ IZR (Zpos d)).
    - apply Rinv_0_lt_compat, IZR_lt. reflexivity.
    - rewrite Rmult_0_l. exact P. }
  split.
  - apply IZR_le, Z.div_pos; [|exact D]. apply Z.mul_nonneg_nonneg; [discriminate | lia].
  - destruct (floor (unit * (Zpos d * parts + n)) _ D) as [F _].
    apply Rle_trans with (1 := F). rewrite mult_IZR, plus_IZR. pose proof unit_positive.
    replace (IZR unit * (IZR (Zpos d * parts) + IZR n) / IZR (Zpos d * parts))
      with (IZR unit * (1 + IZR n / IZR (Zpos d * parts))) by (field; lra).
    apply Rmult_le_compat_l; [lra | apply exp_ineq1_le].
Qed.

Lemma exp_high_above : forall y, 0 <= Q2R y <= Q2R far ->
  IZR unit * exp (Q2R y) <= IZR (exp_high y).
Proof.
  intros [n d] P. unfold exp_high; cbn [Qnum Qden]. rewrite real_make in *.
  rewrite <- whole. apply squared_high.
  assert (D : (0 < Zpos d * parts)%Z) by reflexivity.
  assert (D' := IZR_lt _ _ D).
  assert (L : IZR n / IZR (Zpos d * parts) < 1).
  { apply Rmult_lt_reg_l with (2 ^ halvings); [apply pow_lt; lra|].
    rewrite whole, Rmult_1_r, <- parts_power. apply Rle_lt_trans with (1 := proj2 P).
    unfold far, Q2R; simpl. rewrite Rinv_1, Rmult_1_r. apply IZR_lt. reflexivity. }
  assert (M : (n < Zpos d * parts)%Z).
  { apply lt_IZR. apply Rmult_lt_reg_r with (/ IZR (Zpos d * parts)).
    - apply Rinv_0_lt_compat, D'.
    - rewrite Rinv_r by lra. exact L. }
  destruct (floor (unit * (Zpos d * parts)) (Zpos d * parts - n) ltac:(lia)) as [_ F].
  rewrite plus_IZR. apply Rle_trans with (2 := Rlt_le _ _ F).
  set (m := IZR n) in *. set (e := IZR (Zpos d * parts)) in *.
  rewrite mult_IZR, minus_IZR. fold m e. apply IZR_lt in M. fold m e in M.
  pose proof unit_positive.
  replace (IZR unit * e / (e - m)) with (IZR unit * (e * / (e - m))) by (field; lra).
  apply Rmult_le_compat_l; [lra|].
  (* e^r = 1 / e^-r and 1 - r <= e^-r *)
  rewrite <- (Ropp_involutive (m / e)), exp_Ropp.
  replace (e * / (e - m)) with (/ (1 + - (m / e))) by (field; lra).
  apply Rinv_le_contravar; [lra | apply exp_ineq1_le].
Qed.

Lemma tanh_between_exps : forall low high q,
  0 <= low <= exp (2 * q) -> exp (2 * q) <= high ->
  (low - 1) / (low + 1) <= tanh q <= (high - 1) / (high + 1).
Proof.
  intros low high q L H. rewrite tanh_exp.
  replace ((low - 1) / (low + 1)) with (1 - 2 * / (low + 1)) by (field; lra).
  replace ((high - 1) / (high + 1)) with (1 - 2 * / (high + 1)) by (field; lra).
  assert (/ (exp (2 * q) + 1) <= / (low + 1)) by (apply Rinv_le_contravar; lra).
  assert (/ (high + 1) <= / (exp (2 * q) + 1)) by (apply Rinv_le_contravar; lra).
  unfold Rdiv. lra.
Qed.

Lemma tanh_from_floor : forall z, (0 <= z)%Z ->
  Q2R (tanh_from z 0) <= (IZR z / IZR unit - 1) / (IZR z / IZR unit + 1) <= Q2R (tanh_from z 1).
Proof.
  intros z P. pose proof unit_positive as U. apply IZR_le in P.
  assert (S : (0 < z + unit)%Z) by (apply lt_IZR; rewrite plus_IZR; lra).
  destruct (floor ((z - unit) * unit) _ S) as [F G].
  unfold tanh_from. rewrite !real_make, Z2Pos.id by reflexivity. rewrite !plus_IZR.
  rewrite mult_IZR, minus_IZR, plus_IZR in F, G.
  replace ((IZR z / IZR unit - 1) / (IZR z / IZR unit + 1))
    with ((IZR z - IZR unit) * IZR unit / (IZR z + IZR unit) / IZR unit) by (field; lra).
  assert (0 < / IZR unit) by (apply Rinv_0_lt_compat; lra).
  split; apply Rmult_le_compat_r; lra.
Qed.

Lemma far_positive : 0 <= Q2R far.
Proof. unfold far, Q2R; simpl; lra. Qed.

Opaque unit far exp_low exp_high.

Lemma tanh_positive_encloses : forall q, 0 <= Q2R q ->
  let (low, high) := tanh_positive q in Q2R low <= tanh (Q2R q) <= Q2R high.
Proof.
  intros q P. unfold tanh_positive. pose proof unit_positive as U.
  assert (T : Q2R (mul 2 q) = 2 * Q2R q) by (rewrite real_mul; unfold Q2R at 1; simpl; field).
  destruct (Qle_bool (mul 2 q) far) eqn:E.
  - apply real_le in E. rewrite T in E.
    destruct (exp_low_below (mul 2 q)) as [L0 L]; [rewrite T; lra|].
    pose proof (exp_high_above (mul 2 q)) as H. rewrite T in L, H. specialize (H ltac:(lra)).
    set (l := exp_low _) in *. set (h := exp_high _) in *.
    assert (H0 : 0 <= IZR h).
    { apply Rle_trans with (2 := H). apply Rmult_le_pos; [lra | left; apply exp_pos]. }
    destruct (tanh_from_floor l ltac:(apply le_IZR; lra)) as [A _].
    destruct (tanh_from_floor h ltac:(apply le_IZR; lra)) as [_ B].
    destruct (tanh_between_exps (IZR l / IZR unit) (IZR h / IZR unit) (Q2R q)) as [C D].
    + split.
      * apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra].
      * apply Rmult_le_reg_l with (IZR unit); [lra|].
        replace (IZR unit * (IZR l / IZR unit)) with (IZR l) by (field; lra). exact L.
    + apply Rmult_le_reg_l with (IZR unit); [lra|].
      replace (IZR unit * (IZR h / IZR unit)) with (IZR h) by (field; lra). exact H.
    + split; lra.
  - apply real_gt in E. rewrite T in E.
    pose proof far_positive as F0.
    destruct (exp_low_below far F0) as [L0 L]. generalize dependent (exp_low far). intros l L0 L.
    destruct (tanh_from_floor l ltac:(apply le_IZR; lra)) as [A _].
    assert (X : exp (Q2R far) <= exp (2 * Q2R q)) by (left; apply exp_increasing; exact E).
    destruct (tanh_between_exps (IZR l / IZR unit) (exp (2 * Q2R q)) (Q2R q)) as [C _]; [|lra|].
    + split.
      * apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra].
      * apply Rmult_le_reg_l with (IZR unit); [lra|].
        replace (IZR unit * (IZR l / IZR unit)) with (IZR l) by (field; lra).
        apply Rle_trans with (1 := L). apply Rmult_le_compat_l; lra.
    + rewrite real_one. pose proof (tanh_bounded (Q2R q)). split; lra.
Qed.

Theorem tanh_between_encloses : forall q,
  let (low, high) := tanh_between q in Q2R low <= tanh (Q2R q) <= Q2R high.
Proof.
  intros q. unfold tanh_between. destruct (negative q) eqn:E.
  - apply real_negative in E. pose proof (tanh_positive_encloses (Qopp q)) as H.
    rewrite Q2R_opp in H. specialize (H ltac:(lra)). destruct (tanh_positive (Qopp q)) as [l h].
    rewrite tanh_odd in H. rewrite !Q2R_opp. lra.
  - apply tanh_positive_encloses, real_not_negative, E.
Qed.
