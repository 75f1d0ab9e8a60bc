From Moduli Require Import Checker.
Print Assumptions checker_sound.
Print Assumptions checker_sound_defined.
