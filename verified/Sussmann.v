(** Sussmann's theorem: an irreducible network of tanh has the fewest units that its function allows.

    Units that are different up to sign are linearly independent: on a generic line they are
    a tanh(b t + c) with different (b, c), b > 0. Times all cosh, a sum of them is a sum of
    exponentials; if it is zero for real t, its coefficients are, so it is zero for complex t
    too. At the pole of the steepest unit that is nearest to the real line no other unit
    has one, and its coefficient has to be zero. *)

From Coq Require Import Reals Lra Lia List Classical_Prop.
From Moduli Require Import Activations Networks Shallow.
Import ListNotations.
Open Scope R_scope.

(** Sums of exponentials --------------------------------------------------------------------------- *)

(** Coefficients and exponents. *)
Definition exponentials := list (R * R).

(** The sum with g in the place of the exponential function. *)
Fixpoint with_ (g : R -> R) (l : exponentials) : R :=
  match l with [] => 0 | (c, e) :: l' => c * g e + with_ g l' end.

Fixpoint coefficient (m : R) (l : exponentials) : R :=
  match l with [] => 0 | (c, e) :: l' => (if Req_EM_T e m then c else 0) + coefficient m l' end.

Fixpoint without (m : R) (l : exponentials) : exponentials :=
  match l with
  | [] => []
  | (c, e) :: l' => if Req_EM_T e m then without m l' else (c, e) :: without m l'
  end.

Lemma with_split : forall g m l, with_ g l = coefficient m l * g m + with_ g (without m l).
Proof.
  intros g m. induction l as [|[c e] l IH]; cbn [with_ coefficient without]; [ring|].
  destruct (Req_EM_T e m) as [->|N]; cbn [with_]; rewrite IH; ring.
Qed.

Lemma without_shorter : forall m l, (length (without m l) <= length l)%nat.
Proof.
  intros m. induction l as [|[c e] l IH]; cbn [without length]; [lia|].
  destruct (Req_EM_T e m); cbn [length]; lia.
Qed.

Lemma without_below : forall m l, Forall (fun p => snd p <= m) l ->
  Forall (fun p => snd p < m) (without m l).
Proof.
  intros m l F. induction F as [|[c e] l L F IH]; cbn [without]; [constructor|].
  destruct (Req_EM_T e m); [exact IH|]. constructor; [cbn in *; lra | exact IH].
Qed.

Lemma greatest_exponent : forall l : exponentials, l <> [] -> exists m,
  Forall (fun p => snd p <= m) l /\ (length (without m l) < length l)%nat.
Proof.
  induction l as [|[c e] l IH]; intros N; [congruence|]. destruct l as [|q l'].
  { exists e. split; [constructor; [cbn; lra | constructor]|]. cbn [without].
    destruct (Req_EM_T e e); [cbn; lia | congruence]. }
  destruct IH as (m & F & S); [discriminate|]. set (k := q :: l') in *. destruct (Rle_dec e m) as [L|L].
  - exists m. split; [constructor; [exact L | exact F]|]. cbn [without].
    destruct (Req_EM_T e m); cbn [length] in *; lia.
  - exists e. apply Rnot_le_lt in L. split.
    + constructor; [cbn; lra|]. apply Forall_impl with (2 := F). intros x X. cbn in *. lra.
    + cbn [without]. destruct (Req_EM_T e e); [|congruence].
      pose proof (without_shorter e k). cbn [length] in *. lia.
Qed.

Lemma gap_below : forall m (l : exponentials), Forall (fun p => snd p < m) l ->
  exists d, 0 < d /\ Forall (fun p => snd p <= m - d) l.
Proof.
  intros m l F. induction F as [|[c e] l L F (d & D & G)]; [exists 1; split; [lra | constructor]|].
  cbn in L. exists (Rmin d (m - e)). split; [apply Rmin_glb_lt; lra|]. constructor.
  - cbn. pose proof (Rmin_r d (m - e)). lra.
  - apply Forall_impl with (2 := G). intros p P. cbn in *. pose proof (Rmin_l d (m - e)). lra.
Qed.

Fixpoint sizes (l : exponentials) : R := match l with [] => 0 | (c, _) :: l' => Rabs c + sizes l' end.

Lemma grows_less : forall k t l, 0 <= t -> Forall (fun p => snd p <= k) l ->
  Rabs (with_ (fun e => exp (e * t)) l) <= sizes l * exp (k * t).
Proof.
  intros k t l P F. induction F as [|[c e] l L F IH]; cbn [with_ sizes].
  - rewrite Rabs_R0. lra.
  - apply Rle_trans with (1 := Rabs_triang _ _). rewrite Rabs_mult, (Rabs_pos_eq (exp _)) by (left; apply exp_pos).
    assert (E : exp (e * t) <= exp (k * t)).
    { cbn in L. assert (e * t <= k * t) as [H|H] by (apply Rmult_le_compat_r; assumption).
      - left. apply exp_increasing, H.
      - rewrite H. lra. }
    pose proof (Rmult_le_compat_l _ _ _ (Rabs_pos c) E). lra.
Qed.

(** A number that is less than any is zero. *)
Lemma bounded_growth : forall s k d, 0 < d -> (forall t, 0 <= t -> Rabs s * (1 + d * t) <= k) -> s = 0.
Proof.
  intros s k d D H. destruct (Req_dec s 0) as [|N]; [assumption|]. exfalso.
  pose proof (Rabs_pos_lt s N) as P. pose proof (H 0 ltac:(lra)) as K0.
  assert (0 <= k) by lra.
  assert (T : 0 <= k / (d * Rabs s)).
  { apply Rmult_le_pos; [assumption|]. left. apply Rinv_0_lt_compat, Rmult_lt_0_compat; assumption. }
  specialize (H _ T). replace (Rabs s * (1 + d * (k / (d * Rabs s)))) with (Rabs s + k) in H by (field; lra).
  lra.
Qed.

Lemma exponentials_independent : forall l, (forall t, with_ (fun e => exp (e * t)) l = 0) ->
  forall g, with_ g l = 0.
Proof.
  intros l. remember (length l) as n eqn:E. assert (L : (length l <= n)%nat) by lia. clear E. revert l L.
  induction n as [|n IH]; intros l L Z g.
  { destruct l; [reflexivity | cbn in L; lia]. }
  destruct l as [|q l']; [reflexivity|]. set (l := q :: l') in *.
  destruct (greatest_exponent l) as (m & F & S); [discriminate|].
  destruct (gap_below m _ (without_below _ _ F)) as (d & D & G).
  assert (C : coefficient m l = 0).
  { apply (bounded_growth _ (sizes (without m l)) d D). intros t P.
    specialize (Z t). rewrite (with_split _ m) in Z.
    pose proof (grows_less _ _ _ P G) as B.
    replace (with_ (fun e => exp (e * t)) (without m l)) with (- (coefficient m l * exp (m * t))) in B by lra.
    rewrite Rabs_Ropp, Rabs_mult, (Rabs_pos_eq (exp _)) in B by (left; apply exp_pos).
    replace ((m - d) * t) with (m * t + - (d * t)) in B by ring.
    rewrite exp_plus, exp_Ropp in B. pose proof (exp_pos (m * t)) as X. pose proof (exp_pos (d * t)) as Y.
    assert (Rabs (coefficient m l) * exp (d * t) <= sizes (without m l)).
    { apply Rmult_le_reg_r with (exp (m * t)); [exact X|]. apply Rmult_le_compat_r with (r := exp (d * t)) in B; [|lra].
      replace (sizes (without m l) * (exp (m * t) * / exp (d * t)) * exp (d * t))
        with (sizes (without m l) * exp (m * t)) in B by (field; lra).
      lra. }
    pose proof (exp_ineq1_le (d * t)) as I.
    pose proof (Rmult_le_compat_l _ _ _ (Rabs_pos (coefficient m l)) I). lra. }
  rewrite (with_split _ m), C. rewrite IH; [ring | lia|].
  intros t. specialize (Z t). rewrite (with_split _ m), C in Z. lra.
Qed.

(** Complex values --------------------------------------------------------------------------------- *)

Definition complex := (R * R)%type.
Definition cadd (x y : complex) : complex := (fst x + fst y, snd x + snd y).
Definition cmul (x y : complex) : complex := (fst x * fst y - snd x * snd y, fst x * snd y + snd x * fst y).
Definition square (x : complex) : R := fst x * fst x + snd x * snd x.

Lemma square_mul : forall x y, square (cmul x y) = square x * square y.
Proof. intros [a b] [c d]. unfold square, cmul; cbn. ring. Qed.

(** At t + i s. *)
Definition at_point (t s : R) (l : exponentials) : complex :=
  (with_ (fun e => exp (e * t) * cos (e * s)) l, with_ (fun e => exp (e * t) * sin (e * s)) l).

Definition times_one (c e : R) (l : exponentials) : exponentials :=
  map (fun p => (c * fst p, e + snd p)) l.

Fixpoint times (l k : exponentials) : exponentials :=
  match l with [] => [] | (c, e) :: l' => times_one c e k ++ times l' k end.

Lemma with_app : forall g l k, with_ g (l ++ k) = with_ g l + with_ g k.
Proof. intros g. induction l as [|[c e] l IH]; intros k; cbn [app with_]; rewrite ?IH; ring. Qed.

Lemma at_point_app : forall t s l k, at_point t s (l ++ k) = cadd (at_point t s l) (at_point t s k).
Proof. intros. unfold at_point, cadd; cbn. rewrite !with_app. reflexivity. Qed.

Lemma at_point_one : forall t s c e l, at_point t s (times_one c e l)
  = cmul (c * (exp (e * t) * cos (e * s)), c * (exp (e * t) * sin (e * s))) (at_point t s l).
Proof.
  intros t s c e l. unfold at_point, cmul; cbn [fst snd].
  induction l as [|[d f] l IH]; cbn [times_one map with_ fst snd]; [f_equal; ring|].
  fold (times_one c e l). injection IH as A B. rewrite A, B.
  rewrite !Rmult_plus_distr_r, exp_plus, cos_plus, sin_plus. f_equal; ring.
Qed.

Lemma at_point_times : forall t s l k, at_point t s (times l k) = cmul (at_point t s l) (at_point t s k).
Proof.
  intros t s l k. induction l as [|[c e] l IH]; cbn [times].
  - unfold at_point, cmul; cbn. f_equal; ring.
  - rewrite at_point_app, IH, at_point_one. unfold at_point, cadd, cmul; cbn [fst snd with_]. f_equal; ring.
Qed.

Lemma at_point_real : forall t l, at_point t 0 l = (with_ (fun e => exp (e * t)) l, 0).
Proof.
  intros t l. unfold at_point. induction l as [|[c e] l IH]; cbn [with_]; [reflexivity|].
  injection IH as A B. rewrite A, B, Rmult_0_r, cos_0, sin_0. f_equal; ring.
Qed.

(** Sums of tanh on a line ------------------------------------------------------------------------- *)

(** a, b, c of a tanh(b t + c). *)
Definition waves := list (R * R * R).

Fixpoint sum_of (g : R -> R -> R) (l : waves) : R :=
  match l with [] => 0 | (a, b, c) :: l' => a * g b c + sum_of g l' end.

(** 2 cosh(b t + c) and 2 sinh(b t + c) *)
Definition even_part (b c : R) : exponentials := [(exp c, b); (exp (- c), - b)].
Definition odd_part (a b c : R) : exponentials := [(a * exp c, b); (- (a * exp (- c)), - b)].

(** The sum and d as a fraction. *)
Fixpoint below_line (l : waves) : exponentials :=
  match l with [] => [(1, 0)] | (_, b, c) :: l' => times (even_part b c) (below_line l') end.

Fixpoint above_line (d : R) (l : waves) : exponentials :=
  match l with
  | [] => [(d, 0)]
  | (a, b, c) :: l' => times (odd_part a b c) (below_line l') ++ times (even_part b c) (above_line d l')
  end.

Lemma real_times : forall t l k, with_ (fun e => exp (e * t)) (times l k)
  = with_ (fun e => exp (e * t)) l * with_ (fun e => exp (e * t)) k.
Proof.
  intros t l k. pose proof (at_point_times t 0 l k) as E. rewrite !at_point_real in E.
  injection E as E _. rewrite E. ring.
Qed.

Lemma even_part_value : forall t b c, with_ (fun e => exp (e * t)) (even_part b c)
  = exp (b * t + c) + exp (- (b * t + c)).
Proof.
  intros. cbn. replace (- (b * t + c)) with (- c + - b * t) by ring.
  rewrite !exp_plus. ring.
Qed.

Lemma odd_part_value : forall t a b c, with_ (fun e => exp (e * t)) (odd_part a b c)
  = a * (exp (b * t + c) - exp (- (b * t + c))).
Proof.
  intros. cbn. replace (- (b * t + c)) with (- c + - b * t) by ring.
  rewrite !exp_plus. ring.
Qed.

Lemma below_line_positive : forall t l, 0 < with_ (fun e => exp (e * t)) (below_line l).
Proof.
  intros t. induction l as [|[[a b] c] l IH]; cbn [below_line].
  - cbn. rewrite Rmult_0_l, exp_0. lra.
  - rewrite real_times, even_part_value. apply Rmult_lt_0_compat; [|exact IH].
    pose proof (exp_pos (b * t + c)). pose proof (exp_pos (- (b * t + c))). lra.
Qed.

Lemma tanh_fraction : forall z, tanh z * (exp z + exp (- z)) = exp z - exp (- z).
Proof.
  intros. unfold tanh, sinh, cosh. pose proof (exp_pos z). pose proof (exp_pos (- z)). field. lra.
Qed.

Lemma fraction : forall d t l, with_ (fun e => exp (e * t)) (above_line d l)
  = (d + sum_of (fun b c => tanh (b * t + c)) l) * with_ (fun e => exp (e * t)) (below_line l).
Proof.
  intros d t. induction l as [|[[a b] c] l IH]; cbn [above_line below_line sum_of].
  - cbn. rewrite Rmult_0_l, exp_0. ring.
  - rewrite with_app, !real_times, IH, even_part_value, odd_part_value, <- tanh_fraction. ring.
Qed.

Lemma even_part_point : forall t s b c, at_point t s (even_part b c)
  = ((exp (b * t + c) + exp (- (b * t + c))) * cos (b * s),
     (exp (b * t + c) - exp (- (b * t + c))) * sin (b * s)).
Proof.
  intros. unfold at_point, even_part; cbn [with_].
  replace (- (b * t + c)) with (- c + - b * t) by ring. rewrite !exp_plus.
  replace (- b * s) with (- (b * s)) by ring. rewrite cos_neg, sin_neg. f_equal; ring.
Qed.

Lemma odd_part_point : forall t s a b c, at_point t s (odd_part a b c)
  = (a * (exp (b * t + c) - exp (- (b * t + c))) * cos (b * s),
     a * (exp (b * t + c) + exp (- (b * t + c))) * sin (b * s)).
Proof.
  intros. unfold at_point, odd_part; cbn [with_].
  replace (- (b * t + c)) with (- c + - b * t) by ring. rewrite !exp_plus.
  replace (- b * s) with (- (b * s)) by ring. rewrite cos_neg, sin_neg. f_equal; ring.
Qed.

(** The pole of tanh(b z + c) that is nearest to the real line, and above it: i pi / 2 - c over b. *)
Lemma no_pole : forall b c, 0 < b -> forall l,
  Forall (fun w => 0 < snd (fst w) <= b /\ (snd (fst w), snd w) <> (b, c)) l ->
  square (at_point (- c / b) (PI / 2 / b) (below_line l)) <> 0.
Proof.
  intros b c P l F. induction F as [|[[a' b'] c'] l [B N] F IH]; cbn [below_line].
  - unfold square, at_point; cbn. rewrite !Rmult_0_l, exp_0, cos_0, sin_0. lra.
  - cbn [fst snd] in *. rewrite at_point_times, square_mul. apply Rmult_integral_contrapositive_currified; [|exact IH].
    rewrite even_part_point. unfold square; cbn [fst snd].
    set (u := b' * (- c / b) + c'). set (v := b' * (PI / 2 / b)).
    pose proof (exp_pos u) as X. pose proof (exp_pos (- u)) as Y. pose proof PI_RGT_0.
    assert (S0 : forall z : R, 0 <= z * z) by (intro z; apply Rle_0_sqr).
    destruct (Req_EM_T b' b) as [->|D].
    + assert (U : u <> 0).
      { intro H0. apply N. f_equal. unfold u in H0.
        replace (b * (- c / b) + c') with (c' - c) in H0 by (field; lra). lra. }
      replace v with (PI / 2) by (unfold v; field; lra). rewrite cos_PI2, sin_PI2.
      assert (exp u - exp (- u) <> 0).
      { intro H0. apply U. assert (E : exp u = exp (- u)) by lra. apply exp_inv in E. lra. }
      assert (0 < (exp u - exp (- u)) * (exp u - exp (- u))) by (apply Rsqr_pos_lt; assumption). lra.
    + assert (V : 0 < v < PI / 2).
      { assert (W : 0 < b' / b < 1).
        { split; [apply Rdiv_lt_0_compat; lra|]. apply Rmult_lt_reg_r with b; [exact P|].
          unfold Rdiv. rewrite Rmult_assoc, Rinv_l by lra. lra. }
        replace v with (b' / b * (PI / 2)) by (unfold v; field; lra). split.
        - apply Rmult_lt_0_compat; lra.
        - rewrite <- (Rmult_1_l (PI / 2)) at 2. apply Rmult_lt_compat_r; lra. }
      assert (0 < cos v) by (apply cos_gt_0; lra).
      assert (0 < (exp u + exp (- u)) * cos v) by (apply Rmult_lt_0_compat; lra).
      assert (0 < (exp u + exp (- u)) * cos v * ((exp u + exp (- u)) * cos v)) by (apply Rmult_lt_0_compat; assumption).
      specialize (S0 ((exp u - exp (- u)) * sin v)). lra.
Qed.

Lemma steepest_is_zero : forall d a b c l, 0 < b ->
  Forall (fun w => 0 < snd (fst w) <= b /\ (snd (fst w), snd w) <> (b, c)) l ->
  (forall t, d + sum_of (fun b c => tanh (b * t + c)) ((a, b, c) :: l) = 0) -> a = 0.
Proof.
  intros d a b c l P F Z.
  assert (H : forall g, with_ g (above_line d ((a, b, c) :: l)) = 0).
  { apply exponentials_independent. intros t. rewrite fraction, Z. ring. }
  set (t := - c / b). set (s := PI / 2 / b).
  assert (E : at_point t s (above_line d ((a, b, c) :: l)) = (0, 0)) by (unfold at_point; rewrite !H; reflexivity).
  cbn [above_line] in E. rewrite at_point_app, !at_point_times in E.
  rewrite even_part_point, odd_part_point in E.
  replace (b * t + c) with 0 in E by (unfold t; field; lra).
  replace (b * s) with (PI / 2) in E by (unfold s; field; lra).
  rewrite Ropp_0, exp_0, cos_PI2, sin_PI2 in E.
  assert (Q : square (cmul (a * (1 - 1) * 0, a * (1 + 1) * 1) (at_point t s (below_line l))) = 0).
  { destruct (at_point t s (below_line l)) as [p q], (at_point t s (above_line d l)) as [u v].
    unfold cadd, cmul in E; cbn [fst snd] in E. injection E as A B. unfold square, cmul; cbn [fst snd].
    replace (a * (1 - 1) * 0 * p - a * (1 + 1) * 1 * q) with 0 by lra.
    replace (a * (1 - 1) * 0 * q + a * (1 + 1) * 1 * p) with 0 by lra. ring. }
  rewrite square_mul in Q. apply Rmult_integral in Q as [Q|Q].
  - unfold square in Q; cbn in Q. replace (a * (1 - 1) * 0) with 0 in Q by ring.
    apply Rsqr_0_uniq. unfold Rsqr. lra.
  - exfalso. apply (no_pole b c P l F Q).
Qed.

Definition same_wave (b c : R) (w : R * R * R) : {snd (fst w) = b /\ snd w = c} + {~ (snd (fst w) = b /\ snd w = c)}.
Proof. destruct (Req_EM_T (snd (fst w)) b); destruct (Req_EM_T (snd w) c); tauto. Defined.

Fixpoint together (b c : R) (l : waves) : R :=
  match l with [] => 0 | w :: l' => (if same_wave b c w then fst (fst w) else 0) + together b c l' end.

Fixpoint others (b c : R) (l : waves) : waves :=
  match l with [] => [] | w :: l' => if same_wave b c w then others b c l' else w :: others b c l' end.

Lemma sum_of_split : forall g b c l, sum_of g l = together b c l * g b c + sum_of g (others b c l).
Proof.
  intros g b c. induction l as [|[[a' b'] c'] l IH]; cbn [sum_of together others]; [ring|].
  destruct (same_wave b c (a', b', c')) as [[A B]|N]; cbn [sum_of fst snd] in *; rewrite IH; [subst|]; ring.
Qed.

Lemma others_forall : forall (P : R * R * R -> Prop) b c l, Forall P l ->
  Forall (fun w => P w /\ (snd (fst w), snd w) <> (b, c)) (others b c l).
Proof.
  intros P b c l F. induction F as [|w l Pw F IH]; cbn [others]; [constructor|].
  destruct (same_wave b c w) as [_|N]; [exact IH|]. constructor; [|exact IH].
  split; [exact Pw|]. intro E. injection E as A B. tauto.
Qed.

Lemma others_shorter : forall b c l, (length (others b c l) <= length l)%nat.
Proof.
  intros b c. induction l as [|w l IH]; cbn [others length]; [lia|].
  destruct (same_wave b c w); cbn [length]; lia.
Qed.

Lemma steepest : forall l : waves, l <> [] -> exists b c, (length (others b c l) < length l)%nat
  /\ Forall (fun w => snd (fst w) <= b) l /\ exists a, In (a, b, c) l.
Proof.
  induction l as [|[[a b] c] l IH]; intros N; [congruence|]. destruct l as [|w l'].
  { exists b, c. cbn [others]. destruct (same_wave b c (a, b, c)) as [_|M]; [|cbn in M; tauto].
    split; [cbn; lia|]. split; [constructor; [cbn; lra | constructor] | exists a; left; reflexivity]. }
  destruct IH as (b' & c' & S & F & a' & I'); [discriminate|]. set (m := w :: l') in *.
  destruct (Rle_dec b b') as [L|L].
  - exists b', c'. split; [|split].
    + cbn [others] in *. destruct (same_wave b' c' (a, b, c)); cbn [length] in *; lia.
    + constructor; assumption.
    + exists a'. right. exact I'.
  - apply Rnot_le_lt in L. exists b, c. split; [|split].
    + pose proof (others_shorter b c m) as M. cbn [others].
      destruct (same_wave b c (a, b, c)) as [_|Q]; [cbn [length]; lia | cbn in Q; tauto].
    + constructor; [cbn; lra|]. apply Forall_impl with (2 := F). intros x X. cbn in *. lra.
    + exists a. left. reflexivity.
Qed.

Lemma waves_independent : forall l d, Forall (fun w => 0 < snd (fst w)) l ->
  (forall t, d + sum_of (fun b c => tanh (b * t + c)) l = 0) -> forall g, sum_of g l = 0.
Proof.
  intros l. remember (length l) as n eqn:E. assert (L : (length l <= n)%nat) by lia. clear E. revert l L.
  induction n as [|n IH]; intros l L d P Z g.
  { destruct l; [reflexivity | cbn in L; lia]. }
  destruct l as [|w l']; [reflexivity|]. set (l := w :: l') in *.
  destruct (steepest l) as (b & c & S & F & a & I'); [discriminate|].
  assert (B : 0 < b) by (rewrite Forall_forall in P; apply (P _ I')).
  assert (C : together b c l = 0).
  { apply (steepest_is_zero d _ b c (others b c l) B).
    - apply others_forall. apply Forall_forall. intros x X. rewrite Forall_forall in P, F. auto.
    - intros t. cbn [sum_of]. rewrite <- (Z t), (sum_of_split _ b c l). ring. }
  rewrite (sum_of_split _ b c), C. rewrite (IH (others b c l) ltac:(lia) d); [ring| |].
  - apply Forall_impl with (2 := others_forall _ b c l P). tauto.
  - intros t. rewrite <- (Z t), (sum_of_split _ b c l), C. ring.
Qed.

(** From many inputs to a line ---------------------------------------------------------------------- *)

(** v + s w *)
Fixpoint moved (s : R) (w v : list R) : list R :=
  match v, w with y :: v', a :: w' => y + s * a :: moved s w' v' | _, _ => [] end.

Lemma moved_length : forall s w v, length w = length v -> length (moved s w v) = length v.
Proof.
  intros s. induction w as [|a w IH]; intros [|y v] L; try discriminate; [reflexivity|].
  cbn in *. f_equal. apply IH. lia.
Qed.

Lemma inner_symmetric : forall u v, inner u v = inner v u.
Proof. induction u as [|a u IH]; intros [|y v]; cbn [inner]; rewrite ?IH; ring. Qed.

Lemma inner_moved : forall s u w v, length w = length v -> inner (moved s w v) u = inner v u + s * inner w u.
Proof.
  intros s. induction u as [|b u IH]; intros [|a w] [|y v] L; try discriminate; cbn [moved inner]; try ring.
  rewrite IH by (cbn in L; lia). ring.
Qed.

Lemma inner_self : forall w, is_something w -> 0 < inner w w.
Proof.
  assert (P : forall w, 0 <= inner w w).
  { induction w as [|a w IH]; cbn [inner]; [lra|]. pose proof (Rle_0_sqr a) as H. unfold Rsqr in H. lra. }
  intros w S. induction S as [a w N|a w S IH]; cbn [inner].
  - pose proof (Rsqr_pos_lt a N) as H. unfold Rsqr in H. specialize (P w). lra.
  - pose proof (Rle_0_sqr a) as H. unfold Rsqr in H. lra.
Qed.

Lemma inner_scaled : forall t w v, inner w (map (Rmult t) v) = t * inner w v.
Proof. intros t. induction w as [|a w IH]; intros [|y v]; cbn [inner map]; rewrite ?IH; ring. Qed.

Lemma inner_turned : forall w v, inner (map Ropp w) v = - inner w v.
Proof. induction w as [|a w IH]; intros [|y v]; cbn [inner map]; rewrite ?IH; ring. Qed.

(** Numbers that are not zero stay so under small changes. *)
Lemma small_changes : forall ps : list (R * R), exists e, 0 < e /\ forall s, 0 < s < e ->
  Forall (fun p => fst p <> 0 -> fst p + s * snd p <> 0) ps.
Proof.
  induction ps as [|[p q] ps (e & E & H)]; [exists 1; split; [lra | constructor]|].
  destruct (Req_dec p 0) as [Z|N].
  { exists e. split; [exact E|]. intros s S. constructor; [cbn; congruence | apply H, S]. }
  pose proof (Rabs_pos_lt p N) as P. pose proof (Rabs_pos q) as A.
  exists (Rmin e (Rabs p / (Rabs q + 1))). split.
  { apply Rmin_glb_lt; [exact E|]. apply Rdiv_lt_0_compat; lra. }
  intros s [S T]. pose proof (Rmin_l e (Rabs p / (Rabs q + 1))). pose proof (Rmin_r e (Rabs p / (Rabs q + 1))).
  constructor; [|apply H; lra]. cbn. intros _ F.
  assert (B : s * (Rabs q + 1) < Rabs p).
  { apply Rlt_le_trans with (Rabs p / (Rabs q + 1) * (Rabs q + 1)).
    - apply Rmult_lt_compat_r; lra.
    - right. field. lra. }
  assert (C : Rabs p = s * Rabs q).
  { replace p with (- (s * q)) by lra. rewrite Rabs_Ropp, Rabs_mult, (Rabs_pos_eq s); lra. }
  lra.
Qed.

(** A direction in which none of some vectors vanishes. *)
Lemma generic_direction : forall n ws, Forall (fun w => length w = n) ws -> exists v,
  length v = n /\ Forall (fun w => is_something w -> inner w v <> 0) ws.
Proof.
  intros n ws F. induction F as [|w ws L F (v & V & H)].
  { exists (repeat 0 n). split; [apply repeat_length | constructor]. }
  destruct (Req_dec (inner w v) 0) as [Z|N]; [|exists v; split; [exact V | constructor; auto]].
  destruct (small_changes (map (fun u => (inner u v, inner u w)) ws)) as (e & E & S).
  specialize (S (e / 2) ltac:(lra)). exists (moved (e / 2) w v).
  split; [rewrite moved_length; congruence|]. constructor.
  - intros Some_. rewrite inner_symmetric, inner_moved by congruence.
    rewrite (inner_symmetric v), Z. pose proof (inner_self w Some_).
    assert (0 < e / 2 * inner w w) by (apply Rmult_lt_0_compat; lra). lra.
  - rewrite Forall_forall in *. intros u U Some_.
    rewrite inner_symmetric, inner_moved by congruence. rewrite (inner_symmetric v), (inner_symmetric w).
    apply (S (inner u v, inner u w)); [|apply H; assumption].
    apply in_map_iff. exists u. split; [reflexivity | exact U].
Qed.

Lemma moved_nothing : forall s w v, length w = length v -> ~ is_something (moved s w v) ->
  v = map (Rmult (- s)) w.
Proof.
  intros s. induction w as [|a w IH]; intros [|y v] L N; try discriminate; [reflexivity|].
  cbn [moved map] in *. f_equal.
  - destruct (Req_dec (y + s * a) 0) as [E|E]; [lra|]. exfalso. apply N. left. exact E.
  - apply IH; [cbn in L; lia|]. intro S. apply N. right. exact S.
Qed.

Lemma decided : forall w : list R, is_something w \/ ~ is_something w.
Proof.
  induction w as [|a w IH]; [right; intro S; inversion S|].
  destruct (Req_dec a 0) as [E|E]; [|left; left; exact E].
  destruct IH as [S|N]; [left; right; exact S|]. right. intro S. inversion S; subst; tauto.
Qed.

(** Sums of units with coefficients. *)
Fixpoint weighted (f : unit -> R) (l : list (R * unit)) : R :=
  match l with [] => 0 | (a, u) :: l' => a * f u + weighted f l' end.

Fixpoint line_waves (v : list R) (l : list (R * unit)) : waves :=
  match l with
  | [] => []
  | (a, u) :: l' =>
      let b := inner (incoming u) v in
      if Rlt_dec 0 b then (a, b, offset u) :: line_waves v l'
      else if Rlt_dec b 0 then (- a, - b, - offset u) :: line_waves v l'
      else line_waves v l'
  end.

Fixpoint line_constant (v : list R) (l : list (R * unit)) : R :=
  match l with
  | [] => 0
  | (a, u) :: l' =>
      (if Req_EM_T (inner (incoming u) v) 0 then a * tanh (offset u) else 0) + line_constant v l'
  end.

Lemma on_line : forall t v l, weighted (fun u => response tanh u (map (Rmult t) v)) l
  = line_constant v l + sum_of (fun b c => tanh (b * t + c)) (line_waves v l).
Proof.
  intros t v. induction l as [|[a u] l IH]; cbn [weighted line_constant line_waves sum_of]; [ring|].
  rewrite IH. unfold response. rewrite inner_scaled, Rmult_comm. cbv zeta. set (b := inner (incoming u) v).
  destruct (Req_EM_T b 0) as [E|N]; destruct (Rlt_dec 0 b) as [P|P]; try lra.
  - destruct (Rlt_dec b 0); [lra|]. rewrite E, Rmult_0_r, Rplus_0_l. ring.
  - cbn [sum_of]. rewrite (Rmult_comm t). ring.
  - destruct (Rlt_dec b 0) as [M|M]; [|exfalso; apply N; lra]. cbn [sum_of].
    replace (- b * t + - offset u) with (- (t * b + offset u)) by ring. rewrite tanh_odd. ring.
Qed.

Lemma line_waves_positive : forall v l, Forall (fun w => 0 < snd (fst w)) (line_waves v l).
Proof.
  intros v. induction l as [|[a u] l IH]; cbn [line_waves]; [constructor|]. cbv zeta.
  destruct (Rlt_dec 0 (inner (incoming u) v)); [constructor; [assumption | exact IH]|].
  destruct (Rlt_dec (inner (incoming u) v) 0); [constructor; [cbn; lra | exact IH] | exact IH].
Qed.

(** 1 for units with the row of u, -1 for those with the opposite row. *)
Definition side (u w : unit) : R :=
  if list_eq_dec Req_EM_T (offset w :: incoming w) (offset u :: incoming u) then 1
  else if list_eq_dec Req_EM_T (offset w :: incoming w) (map Ropp (offset u :: incoming u)) then -1 else 0.

Lemma side_on_line : forall v u w, inner (incoming u) v <> 0 ->
  (inner (incoming w) v = inner (incoming u) v -> incoming w = incoming u) ->
  (inner (incoming w) v = - inner (incoming u) v -> incoming w = map Ropp (incoming u)) ->
  side u w =
    if Req_EM_T (inner (incoming w) v) (inner (incoming u) v) then (if Req_EM_T (offset w) (offset u) then 1 else 0)
    else if Req_EM_T (inner (incoming w) v) (- inner (incoming u) v)
      then (if Req_EM_T (offset w) (- offset u) then -1 else 0) else 0.
Proof.
  intros v u w N P M. unfold side.
  destruct (list_eq_dec _ _ _) as [E|E].
  { injection E as A B. rewrite A, B. destruct (Req_EM_T (inner (incoming u) v) _); [|congruence].
    destruct (Req_EM_T (offset u) _); congruence. }
  destruct (list_eq_dec _ _ _) as [F|F].
  { cbn [map] in F. injection F as A B. rewrite A, B, inner_turned.
    destruct (Req_EM_T (- inner (incoming u) v) (inner (incoming u) v)); [lra|].
    destruct (Req_EM_T (- inner (incoming u) v) _); [|congruence].
    destruct (Req_EM_T (- offset u) _); congruence. }
  destruct (Req_EM_T (inner (incoming w) v) (inner (incoming u) v)) as [A|A].
  { destruct (Req_EM_T (offset w) (offset u)) as [B|B]; [|reflexivity].
    exfalso. apply E. rewrite B, (P A). reflexivity. }
  destruct (Req_EM_T (inner (incoming w) v) (- inner (incoming u) v)) as [B|B]; [|reflexivity].
  destruct (Req_EM_T (offset w) (- offset u)) as [C|C]; [|reflexivity].
  exfalso. apply F. cbn [map]. rewrite C, (M B). reflexivity.
Qed.

Lemma units_independent : forall n l d u, length (incoming u) = n -> is_something (incoming u) ->
  Forall (fun p => length (incoming (snd p)) = n) l ->
  (forall x, length x = n -> d + weighted (fun w => response tanh w x) l = 0) ->
  weighted (side u) l = 0.
Proof.
  intros n l d u L S F Z.
  set (ws := incoming u :: map (fun p => moved (-1) (incoming u) (incoming (snd p))) l
    ++ map (fun p => moved 1 (incoming u) (incoming (snd p))) l).
  destruct (generic_direction n ws) as (v & V & G).
  { constructor; [exact L|]. apply Forall_app. split; apply Forall_map; apply Forall_impl with (2 := F);
      intros p P; rewrite moved_length; congruence. }
  unfold ws in G; clear ws. inversion G as [|? ? G0 G1]; subst. specialize (G0 S). apply Forall_app in G1 as [G1 G2].
  apply Forall_map in G1, G2. set (b0 := inner (incoming u) v) in *. set (c0 := offset u).
  set (s0 := if Rlt_dec 0 b0 then 1 else -1).
  pose proof (waves_independent (line_waves v l) (d + line_constant v l) (line_waves_positive v l)) as W.
  specialize (W ltac:(intros t; rewrite Rplus_assoc, <- on_line; apply Z; rewrite map_length; congruence)).
  specialize (W (fun b c => if Req_EM_T b (s0 * b0) then if Req_EM_T c (s0 * c0) then s0 else 0 else 0)).
  rewrite <- W. clear W Z V G.
  induction l as [|[a w] l IH]; [reflexivity|].
  inversion F as [|? ? Fw F']; inversion G1 as [|? ? A G1']; inversion G2 as [|? ? B G2']; subst.
  specialize (IH F' G1' G2'). cbn [snd] in *. cbn [weighted line_waves]. rewrite IH. cbv zeta.
  rewrite (side_on_line v u w G0); fold b0 c0.
  - set (b := inner (incoming w) v). set (c := offset w). unfold s0.
    destruct (Rlt_dec 0 b), (Rlt_dec b 0), (Rlt_dec 0 b0); cbn [sum_of]; try lra;
      repeat match goal with |- context [Req_EM_T ?x ?y] => destruct (Req_EM_T x y) end; try lra;
      exfalso; match goal with H : _ <> _ |- _ => apply H; lra end.
  - intros E. destruct (decided (moved (-1) (incoming u) (incoming w))) as [Y|N].
    + exfalso. apply (A Y). rewrite inner_moved by congruence. fold b0. lra.
    + apply moved_nothing in N; [|congruence]. rewrite N, <- map_id. apply map_ext. intros. ring.
  - intros E. destruct (decided (moved 1 (incoming u) (incoming w))) as [Y|N].
    + exfalso. apply (B Y). rewrite inner_moved by congruence. fold b0. lra.
    + apply moved_nothing in N; [|congruence]. rewrite N. apply map_ext. intros. ring.
Qed.

(** The theorem ------------------------------------------------------------------------------------- *)

Lemma turned_twice : forall v, map Ropp (map Ropp v) = v.
Proof. intros. rewrite map_map, <- map_id. apply map_ext. intros. ring. Qed.

Lemma twins_symmetric : forall u v, twins u v -> twins v u.
Proof.
  intros u v [[A B]|[A B]]; [left; split; congruence|]. right. rewrite A, turned_twice, B.
  split; [reflexivity | ring].
Qed.

Lemma twins_joined : forall u v w, twins u w -> twins v w -> twins u v.
Proof.
  intros u v w [[A B]|[A B]] [[C D]|[C D]].
  - left. split; congruence.
  - right. rewrite A, C, turned_twice, B, D. split; [reflexivity | ring].
  - right. split; congruence.
  - left. split; congruence.
Qed.

Lemma side_of_others : forall u w, ~ twins u w -> side u w = 0.
Proof.
  intros u w N. unfold side. destruct (list_eq_dec _ _ _) as [E|E].
  { exfalso. apply N. injection E as A B. left. split; congruence. }
  destruct (list_eq_dec _ _ _) as [F|F]; [|reflexivity].
  exfalso. apply N, twins_symmetric. cbn [map] in F. injection F as A B. right. split; assumption.
Qed.

Lemma side_of_itself : forall u, side u u = 1.
Proof. intros u. unfold side. destruct (list_eq_dec _ _ _); congruence. Qed.

(** If each of some units that are no twins has a twin among others, these are at least as many. *)
Lemma at_least_as_many : forall us vs, ForallOrdPairs (fun u v => ~ twins u v) us ->
  (forall u, In u us -> exists v, In v vs /\ twins u v) -> (length us <= length vs)%nat.
Proof.
  induction us as [|u us IH]; intros vs D H; [cbn; lia|].
  inversion D as [|? ? N D']; subst. destruct (H u (or_introl eq_refl)) as (v & I & T).
  apply in_split in I as (before & behind & ->). rewrite app_length. cbn [length].
  enough (length us <= length (before ++ behind))%nat as E by (rewrite app_length in E; lia).
  apply IH; [exact D'|]. intros w W. destruct (H w (or_intror W)) as (v' & I & T').
  exists v'. split; [|exact T']. apply in_app_iff in I as [I|[E|I]]; apply in_app_iff; auto.
  subst v'. exfalso. rewrite Forall_forall in N. apply (N w W), (twins_joined _ _ v); assumption.
Qed.

Lemma no_twins : forall before u behind, ForallOrdPairs (fun u v => ~ twins u v) (before ++ u :: behind) ->
  Forall (fun w => ~ twins u w) (before ++ behind).
Proof.
  induction before as [|w before IH]; intros u behind D; cbn [app] in *; inversion D as [|? ? N D']; subst.
  - exact N.
  - constructor; [|apply IH, D']. intro T. rewrite Forall_forall in N.
    apply (N u); [apply in_app_iff; right; left; reflexivity | apply twins_symmetric, T].
Qed.

Lemma weighted_app : forall f l k, weighted f (l ++ k) = weighted f l + weighted f k.
Proof. intros f. induction l as [|[a u] l IH]; intros k; cbn [app weighted]; rewrite ?IH; ring. Qed.

Lemma weighted_nothing : forall u f l, Forall (fun w => ~ twins u w) l ->
  weighted (side u) (map (fun w => (f w, w)) l) = 0.
Proof.
  intros u f l F. induction F as [|w l N F IH]; cbn [map weighted]; [reflexivity|].
  rewrite IH, (side_of_others _ _ N). ring.
Qed.

Lemma weighted_responses : forall k us x i,
  weighted (fun w => response tanh w x) (map (fun w => (k * val (outgoing w) i, w)) us) = k * responses tanh us x i.
Proof.
  intros k us x i. induction us as [|u us IH]; cbn [map weighted responses]; rewrite ?IH; ring.
Qed.

Lemma some_entry : forall v, is_something v -> exists i, val v i <> 0.
Proof.
  intros v P. induction P as [a v N|a v P (i & N)]; [exists 0%nat; exact N | exists (S i); exact N].
Qed.

Theorem sussmann_holds : forall n, sussmann n.
Proof.
  intros n net rival Sn Sr [P D] Equal. apply at_least_as_many; [exact D|].
  intros u U. destruct (classic (exists v, In v (units rival) /\ twins u v)) as [|None_]; [assumption|].
  exfalso. rewrite Forall_forall in P. destruct (P u U) as [In_ Out].
  destruct (some_entry _ Out) as (i & N). apply N.
  pose proof (units_independent n (map (fun w => (1 * val (outgoing w) i, w)) (units net)
    ++ map (fun w => (-1 * val (outgoing w) i, w)) (units rival))
    (val (constants net) i - val (constants rival) i) u) as Z.
  rewrite weighted_app in Z.
  assert (R0 : weighted (side u) (map (fun w => (-1 * val (outgoing w) i, w)) (units rival)) = 0).
  { apply weighted_nothing. apply Forall_forall. intros w W T. apply None_. exists w. split; assumption. }
  assert (R1 : weighted (side u) (map (fun w => (1 * val (outgoing w) i, w)) (units net)) = val (outgoing u) i).
  { apply in_split in U as (before & behind & E). rewrite E in *. apply no_twins, Forall_app in D as [D1 D2].
    rewrite map_app, weighted_app. cbn [map weighted].
    rewrite !weighted_nothing, side_of_itself by assumption. ring. }
  rewrite R0, R1, Rplus_0_r in Z. apply Z; [| exact In_ | |].
  - unfold sized in Sn. rewrite Forall_forall in Sn. apply (Sn u U).
  - apply Forall_app. split; apply Forall_map; cbn [snd];
      [apply Forall_impl with (2 := Sn) | apply Forall_impl with (2 := Sr)]; intros w [L _]; exact L.
  - intros x L. rewrite weighted_app, !weighted_responses.
    pose proof (f_equal (fun y => val y i) (Equal x L)) as E. cbn beta in E.
    rewrite !(val_run _ n) in E by assumption. unfold output in E. lra.
Qed.
